"""Files through the whole loader: each row, reject and failure must be what the oracle, Postgres, expects."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from random import Random
from typing import IO

import msgspec

from loader.cancellation import Interrupt
from loader.contract import Failed, Failure, FailureCode, Job, Published, Receipt
from loader.postgres import ledger, remove, target_table
from loader.postgres.connection import Database
from loader.rejects import Reason, Reject
from tests.support.dialects import COMPRESSIONS
from tests.support.http_server import HttpServer
from tests.support.loader_process import wait_for
from tests.support.oracle import Oracle, Record, oracle, records_behind_header
from tests.support.paths import PROGRAMS

_DRIVER = PROGRAMS / "many_loads.py"
_HEADER_CODES = {FailureCode.NOT_CSV, FailureCode.HEADER_MISMATCH, FailureCode.EMPTY_FILE}
# With these the probe takes a file for something else, whatever follows.
_FOREIGN = (b"<", b"{", b"[", b"PAR1", b"PK\x03\x04", b"\xff\xfe", b"\xfe\xff", b"BZh", b"\xfd7zXZ", b"%PDF")
# So that the head of a compressed file has some of it decompressed, as a head of the usual size always has.
_MIN_COMPRESSED_HEAD_BYTES = 8_192
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


@contextlib.contextmanager
def whole_loader(
    folder: Path, database_url: str, segment_bytes: int, head_bytes: int
) -> Generator[WholeLoader]:
    """Yield a loader in a process of its own, as many_loads.py has it."""
    command = [sys.executable, str(_DRIVER), str(segment_bytes), str(head_bytes), database_url]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        HttpServer(b"") as server,
        oracle(database_url) as expectations,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield WholeLoader(
                folder,
                database_url,
                segment_bytes,
                head_bytes,
                process.stdin,
                process.stdout,
                server,
                expectations,
            )
        finally:
            process.stdin.close()


class WholeLoader:
    """A loader process, the sources of its files, and the oracle."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        segment_bytes: int,
        head_bytes: int,
        jobs: IO[bytes],
        messages: IO[bytes],
        server: HttpServer,
        expectations: Oracle,
    ) -> None:
        self.oracle = expectations
        self.reasons_seen = Counter[str]()
        self._folder = folder
        self._database_url = database_url
        self._segment_bytes = segment_bytes
        self._head_bytes = head_bytes
        self._jobs = jobs
        self._messages = messages
        self._server = server
        self._count = 0

    def run(self, source: str, max_rejects: str, workers: int = 1) -> Published | Failed:
        """Load a file in place of all that trips has; return the loader's last message."""
        job = Job(source=source, mode="replace", max_rejects=max_rejects, workers=workers)
        self._jobs.write(msgspec.json.encode(job) + b"\n")
        self._jobs.flush()
        return msgspec.json.decode(self._messages.readline(), type=Published | Failed)

    def check(self, csv: bytes, random: Random) -> str:
        """Load a file in a way that is drawn, with all rejects allowed, and again with too few; return what it came to."""
        source = self.offer(csv, random)
        if csv.startswith(_COMPRESSED):
            return "taken for compressed"
        workers = random.choice([1, 1, 2, 3])
        last = self.run(source, "100%", workers)
        header, _, data = csv.partition(b"\n")
        column_count = self.oracle.header_columns(header)
        if not data or self._is_no_header(csv, header) or column_count is None:
            self.check_refused(last, _HEADER_CODES)
            return "header refused"
        records = records_behind_header(csv)
        if isinstance(last, Failed):
            if self._is_cut_off(csv, records[-1], column_count):
                failure = self.check_refused(
                    last, {FailureCode.RECORD_TOO_LONG, FailureCode.SOURCE_TRUNCATED}
                )
            else:
                failure = self.check_refused(last, {FailureCode.RECORD_TOO_LONG})
            self._check_place_of_failure(failure, records, column_count)
            self._check_first_fault(self.run(source, "0", workers), records, column_count)
            return str(failure.code)
        assert not self._is_cut_off(csv, records[-1], column_count)
        assert all(len(record.content) <= 2 * self._segment_bytes for record in records)
        rejected = self.check_published(last.receipt, records, column_count)
        if rejected and random.random() < 0.5:
            self._check_too_many(random, source, workers, rejected, len(records))
        return "published with rejects" if rejected else "published whole"

    def offer(self, csv: bytes, random: Random) -> str:
        """Put a file where the loader finds it: on the disk or a server, compressed or not."""
        self._count += 1
        content = csv
        if self._head_bytes >= _MIN_COMPRESSED_HEAD_BYTES and random.random() < 0.25:
            content = random.choice(COMPRESSIONS)(csv)
        if random.random() < 0.15:
            self._server.content, self._server.etag = content, f'"{self._count}"'
            self._server.ranges = random.random() < 0.7
            return self._server.url
        return self.on_disk(content)

    def on_disk(self, content: bytes) -> str:
        """Put a file on the disk."""
        path = self._folder / f"{self._count % 10}.csv"
        path.write_bytes(content)
        return str(path)

    def _is_no_header(self, csv: bytes, header: bytes) -> bool:
        return csv.lstrip().startswith(_FOREIGN) or len(header) >= self._head_bytes

    def _is_cut_off(self, csv: bytes, last: Record, column_count: int) -> bool:
        """Whether a file ends within a record: such a record may not be rejected."""
        expected = None if csv.endswith(b"\n") else self.oracle.expected_reject(last.content, column_count)
        return expected is not None and expected.reasons <= {Reason.FIELD_COUNT, Reason.QUOTE}

    def check_refused(self, last: Published | Failed, codes: set[FailureCode]) -> Failure:
        """See that a run failed in one of these ways and left nothing behind but what is kept for the next attempt."""
        assert isinstance(last, Failed), last
        assert last.failure.code in codes, last
        if last.failure.retryable:
            wait_for("the staging to be orphaned", self._is_collected)
        else:
            assert last.staging == "none"
        query = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('loader') AND relname ~ '^import_\\d+$'"
        (tables,) = self.oracle.connection.execute(query).fetchone() or (0,)
        assert tables <= 1  # what was published before
        return last.failure

    def check_published(self, receipt: Receipt, records: list[Record], column_count: int) -> list[Reject]:
        """See that trips holds what Postgres makes of the records that were not rejected, and that the others had to be."""
        rejected = list(ledger.rejects(self.oracle.connection, receipt.import_key))
        self.reasons_seen.update(_kind_of(reject) for reject in rejected)
        by_offset = {record.byte_offset: record for record in records}
        refused: dict[bytes, Reject] = {}
        for reject in rejected:
            assert by_offset.pop(reject.byte_offset) == Record(
                reject.line, reject.byte_offset, reject.original
            )
            known = refused.setdefault(reject.original, reject)
            assert (known.column, known.value, known.reason) == (reject.column, reject.value, reject.reason)
        for reject in refused.values():
            self._check_reject(reject, column_count)
        assert receipt.rows_parsed == len(records)
        assert receipt.rows_rejected == len(rejected)
        assert receipt.rows_published == len(by_offset)
        stored = self.oracle.stored(by_offset.values(), column_count)
        assert self.oracle.tuples("trips") == stored
        return rejected

    def _check_reject(self, reject: Reject, column_count: int) -> None:
        expected = self.oracle.expected_reject(reject.original, column_count)
        assert expected is not None, reject
        assert (reject.column, reject.value) == (expected.column, expected.value), (reject, expected)
        assert _kind_of(reject) in expected.reasons, (reject, expected)

    def _is_collected(self) -> bool:
        """Remove what was kept, unless the backend of the loader that kept it still has its lock."""
        with Database(self._database_url).connection("gc") as connection:
            if not target_table.exists(connection):
                return True
            for found in remove.orphaned(connection, "loading"):
                assert remove.mark(connection, found.import_key, published=False)
                remove.remove(connection, found.import_key, Interrupt(), lambda _part, _parts: None, 600)
            return ledger.select_imports(connection, "state <> 'published'") == []

    def _check_place_of_failure(
        self, failure: Failure, records: list[Record], column_count: int
    ) -> list[Record]:
        """See that a failure is about one record, which it tells rightly, and all before fit; return those before."""
        before = [record for record in records if record.byte_offset < (failure.byte_offset or 0)]
        record = records[len(before)]
        assert (failure.line, failure.byte_offset) == (record.line, record.byte_offset)
        assert all(len(each.content) <= 2 * self._segment_bytes for each in before)
        if failure.code is FailureCode.RECORD_TOO_LONG:  # longer than a segment may be, than two must be
            assert len(record.content) >= self._segment_bytes
        else:
            assert failure.code is FailureCode.BAD_ROW or record is records[-1]
            expected = self.oracle.expected_reject(record.content, column_count)
            assert expected is not None
            assert (failure.column, failure.value) == (expected.column, expected.value)
        return before

    def _check_first_fault(self, last: Published | Failed, records: list[Record], column_count: int) -> None:
        failure = self.check_refused(
            last, {FailureCode.BAD_ROW, FailureCode.RECORD_TOO_LONG, FailureCode.SOURCE_TRUNCATED}
        )
        for record in self._check_place_of_failure(failure, records, column_count):
            assert self.oracle.expected_reject(record.content, column_count) is None

    def _check_too_many(
        self, random: Random, source: str, workers: int, rejected: list[Reject], row_count: int
    ) -> None:
        """See that a reject too many is refused, with its place, and that just so many are not."""
        count = len(rejected)
        if count == 1 or random.random() < 0.7:
            failure = self.check_refused(self.run(source, "0", workers), {FailureCode.BAD_ROW})
            _check_place(failure, rejected[0])
            return
        too_many = {FailureCode.TOO_MANY_REJECTS}
        failure = self.check_refused(self.run(source, str(count - 1)), too_many)
        _check_place(failure, rejected[-1])
        share = 100 * count - 1
        failure = self.check_refused(self.run(source, f"{share}/{row_count}%", workers), too_many)
        assert any(_has_place(failure, reject) for reject in rejected), failure
        assert isinstance(self.run(source, str(count), workers), Published)
        assert isinstance(self.run(source, f"{100 * count}/{row_count}%", workers), Published)


def _kind_of(reject: Reject) -> Reason:
    """Return the kind of a reject of the ledger, whose text may end in counts."""
    return Reason(reject.reason.partition(": ")[0])


def _has_place(failure: Failure, reject: Reject) -> bool:
    return (failure.line, failure.byte_offset, failure.column, failure.value) == (
        reject.line, reject.byte_offset, reject.column, reject.value
    )  # fmt: skip


def _check_place(failure: Failure, reject: Reject) -> None:
    assert _has_place(failure, reject), (failure, reject)
