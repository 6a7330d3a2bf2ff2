"""The loader's limits: sizes, time limits and budgets, each with its unit and its reason. Tests pass smaller ones."""

from __future__ import annotations

import msgspec

from loader.buffers import MIB, SEGMENT_BYTES


class Parallelism(msgspec.Struct, frozen=True):
    """How many threads read one source at once. Over HTTP each of them holds one connection.

    A source is read by `at_start` threads. Once the consumer has waited for it for `slow_seconds`, it is read by `at_most`
    threads, in pieces of `piece_bytes`. A server that rejects requests (429, 503) gets fewer: see concurrency_limit.py.
    """

    # Four fill a fast link. Each fills a buffer of its own, so more would cost memory. docs/operations.md ("What a crash
    # costs") and docs/decisions.md state the consequences.
    at_start: int = 4
    # As the AWS command line has by default: https://docs.aws.amazon.com/cli/latest/topic/s3-config.html
    at_most: int = 10
    # Each piece costs a request: 0.2 ms of CPU, and a round trip in which its connection is idle. The smaller the pieces,
    # the shorter the wait for the slowest connection.
    piece_bytes: int = 2 * MIB
    # Since the source was last ahead of the consumer. Longer than a pause of a fast server.
    slow_seconds: float = 0.5


SEQUENTIAL = Parallelism(at_start=1, at_most=1)


class RetryPolicy(msgspec.Struct, frozen=True):
    """Time limits and retries of the requests for one source."""

    # Per address of a name. Lets the third retransmission of a lost SYN (1, 3, 7 s) still succeed.
    connect_seconds: float = 10
    # Without any byte, also before the first one. Longer than a server's longest pause under load; --read-timeout raises it
    # for servers that make the file only when it is requested.
    read_timeout_seconds: float = 30
    # A server that sends a few bytes at a time never reaches the limit above. A rate below this one, over this much time
    # spent waiting, is a failure, too. At this rate 300 GB would take ten years.
    low_speed_limit_bytes_per_second: float = 1024
    low_speed_window_seconds: float = 30
    # Failed attempts in a row without progress: one to two minutes of waits, enough for a server to restart.
    attempts: int = 10
    # Of the probe: about 3 s, since a person waits for "no such host".
    probe_attempts: int = 4
    first_delay_seconds: float = 0.5
    max_delay_seconds: float = 30
    # A server may ask for an hour; it is asked again earlier.
    max_retry_after_seconds: float = 120
    # All waits in a row that the server requests, by Retry-After or by 202; they are no failed attempts. Long enough to make
    # a report or to restart, and half of what the service takes for a hang. Then the run ends with a retryable failure.
    max_requested_wait_seconds: float = 900


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All limits of one run."""

    # --- The file
    segment_bytes: int = SEGMENT_BYTES
    # Of the probe: a header and some thousand rows, or enough to recognize what is no CSV.
    head_bytes: int = 256 * 1024
    # Rows of the head that are encoded before a table exists: a wrong file shows in its first rows.
    probed_rows: int = 100
    # Rejects beyond the allowed percentage of the rows read so far: bad rows may come first, but the wrong file must not
    # fill the ledger. 400,000 usual rows.
    excess_reject_bytes: int = 64 * MIB

    # --- HTTP
    http_connections: Parallelism = Parallelism()
    retry_policy: RetryPolicy = RetryPolicy()

    # --- Parts, see commit_schedule.py
    # A smaller file is one part, which one worker loads: each part is a table that every query over trips locks, and
    # thousands of small files make thousands of them. A second worker would save about a second.
    one_part_bytes: int = 256_000_000
    # Smaller parts would make more tables without a benefit: this is a few seconds of work.
    min_part_bytes: int = 1 << 30
    # A crash may cost a minute of work: this, the block that is being sent when a part is due, and the commit.
    min_part_seconds: float = 50

    # --- Connections to Postgres
    # For each host. A connection attempt that takes longer will hardly succeed.
    connect_timeout_seconds: int = 5
    # A peer that acknowledges nothing for this long is gone.
    tcp_user_timeout_seconds: int = 30
    # How long nothing may move before the watchdog queries the database, and how long it waits for the response: as long
    # as to connect to three hosts in turn.
    watchdog_seconds: float = 15
    # A database that stays away for this long after the last progress ends the run.
    database_outage_seconds: float = 120
    # Attempts in a row that send rows and commit none. A limit on the length of transactions, for instance, would
    # otherwise end sessions late in each part for ever.
    max_attempts_without_progress: int = 10

    # --- Locks
    # On trips: longer than a report runs, shorter than a night's pg_dump.
    trips_lock_seconds: float = 600
    # On the import's own tables, which only pg_dump reads before the publish: longer than a night's dump. A supervised run
    # uses `trips_lock_seconds`, since its supervisor retries and must not mistake the wait for a hang.
    staging_lock_seconds: float = 43_200
    # A server may need this long to notice that the loader that held the import was killed.
    import_lock_seconds: float = 10

    # --- The end of a run
    # For the response to a commit after a request to stop. A lost connection is noticed after `tcp_user_timeout_seconds`;
    # a response that is still missing then does not come, and the ledger has to be queried.
    commit_seconds: float = 60
    # For loading to end after it was aborted. Workers that hang take 1.5 s (workers.py). A step that hangs even then is
    # left behind: its connections are shut down, so it can do no harm.
    abort_seconds: float = 5
    # For a rollback that can't reach the database or waits for a lock, and for the ledger after a commit in doubt: a
    # person waits for it.
    rollback_seconds: float = 10
    # For one step of either. The longest drops a part of some GB, which takes a second.
    rollback_step_seconds: float = 60

    def with_read_timeout(self, seconds: int | None) -> Limits:
        """Return the limits with another read timeout; None: unchanged."""
        if seconds is None:
            return self
        policy = self.retry_policy
        # a pause that the read timeout allows is no low speed
        window_seconds = max(policy.low_speed_window_seconds, seconds)
        policy = msgspec.structs.replace(
            policy, read_timeout_seconds=seconds, low_speed_window_seconds=window_seconds
        )
        return msgspec.structs.replace(self, retry_policy=policy)


DEFAULT_LIMITS = Limits()
