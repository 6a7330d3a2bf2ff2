"""A whole import in this process, with segments and parts so small that a test's file has many: from probe to publish.

What only a process has, exit codes and signals, is tested with `LoaderProcess`.
"""

from __future__ import annotations

from contextlib import nullcontext

import msgspec

from loader.contract import FAILURE_KINDS, Failed, Failure, FailureCode, Job, Published, Receipt
from loader.limits import Limits, RetryPolicy
from loader.pipeline.run import run
from tests.support.loader_process import assert_nothing_is_left, checksum, checksum_of, row_count
from tests.support.source_reading import QUICK

# RetryPolicy at once; a silence or a trickle ends soon, though not on a machine that stalls.
HASTY = msgspec.structs.replace(
    QUICK, read_timeout_seconds=1, low_speed_limit_bytes_per_second=100_000, low_speed_window_seconds=0.5
)
# Of segments and parts so small that a test's file has many.
SMALL = Limits(segment_bytes=64 * 1024, one_part_bytes=0, min_part_bytes=256 * 1024)


class WholeImport:
    """Runs jobs on one database, and checks that each leaves all of its rows or none."""

    def __init__(self, database_url: str, sample: bytes) -> None:
        self.database_url = database_url
        self._sample = sample
        self.limits = SMALL

    def succeeds(self, job: Job, retry_policy: RetryPolicy = HASTY) -> Receipt:
        """Import the sample from the job's source; check that trips has each of its rows once, and nothing else."""
        end = self.ends(job, retry_policy)
        assert isinstance(end, Published), end
        assert end.receipt.rows_published == self._sample.count(b"\n") - 1
        assert checksum(self.database_url) == checksum_of(self.database_url, self._sample)
        assert_nothing_is_left(self.database_url)
        return end.receipt

    def fails(self, job: Job, code: FailureCode, retry_policy: RetryPolicy = HASTY) -> Failure:
        """Run a job that must fail with this code; check that no row is visible, and that only resumable staging is left."""
        end = self.ends(job, retry_policy)
        assert isinstance(end, Failed), end
        assert end.failure.code is code, end.failure
        assert end.failure.hint
        assert row_count(self.database_url) == 0
        if end.staging == "none":
            assert_nothing_is_left(self.database_url)
        else:
            assert (end.staging, FAILURE_KINDS[code].staging) == ("kept", "kept")
        return end.failure

    def ends(self, job: Job, retry_policy: RetryPolicy = HASTY) -> Published | Failed:
        """Run a job; return its last message."""
        return run(
            job,
            lambda: nullcontext(self.database_url),
            lambda _: None,
            is_supervised=False,
            limits=msgspec.structs.replace(self.limits, retry_policy=retry_policy),
        )
