"""The story of an import on one page: probe, claim, load what is missing, publish.

Each attempt does all of it. So going on after a lost database, a killed loader or a suspended one is the same as
beginning: whatever the ledger has of this file is not loaded again.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable
from functools import partial
from uuid import UUID

import msgspec

from loader import failpoint
from loader.buffers import BufferPool
from loader.cancellation import Interrupt, call_in_daemon_thread
from loader.contract import FailureCode, Job, Message, Probed, Receipt
from loader.encoding.header import Header, first_rejects, read_header
from loader.errors import LoaderError
from loader.limits import Limits
from loader.pipeline import proof
from loader.pipeline.commit_schedule import expected_parts
from loader.pipeline.progress import Meter
from loader.pipeline.reject_limit import RejectCount, parse_allowance
from loader.pipeline.remainder import PendingBlocks
from loader.pipeline.workers import Workers, default_worker_count
from loader.postgres import (
    import_lock,
    import_tables,
    ledger,
    publish,
    remove,
    staging,
    target_notes,
    target_table,
)
from loader.postgres.connection import Connection, Database, end_backends
from loader.postgres.import_lock import Attempt, Target
from loader.postgres.indexing import IndexMissing
from loader.postgres.ledger import Import
from loader.postgres.lock_retry import retry_while_locked
from loader.postgres.watchdog import Watchdog
from loader.source.open import Source, SourceInfo, open_source, shown_location

# Buffers beyond those being filled and those being encoded: so that neither side waits for the other's last step.
_SPARE_BUFFERS = 2
_DATABASE_RETRY_SECONDS = 1.0
# Dropping 300 GB takes two minutes. Tidying that takes longer than this hangs, and keeps nobody waiting for the exit.
_TIDY_SECONDS = 300.0


class _Probe(msgspec.Struct, frozen=True):
    """What the first look at the source found."""

    source: Source
    info: SourceInfo
    header: Header


class Load:
    """One run of the loader for one job."""

    def __init__(
        self,
        job: Job,
        database_url: str,
        interrupt: Interrupt,
        meter: Meter,
        send: Callable[[Message], None],
        limits: Limits,
    ) -> None:
        self._job = job
        self._limits = limits
        self._database_url = database_url
        self._interrupt = interrupt
        self._meter = meter
        self._send = send
        self._allowance = parse_allowance(job.max_rejects)
        self._started = time.monotonic()
        self._worker_count = job.workers or default_worker_count()
        self.location = shown_location(job.source)
        self.data_bytes: int | None = None  # of a plain file without its header, once that is known
        self.import_id: UUID | None = UUID(job.import_id) if job.import_id else None
        self.is_claimed = False  # the import is in the ledger, and was ours to change
        self.is_resumable = True  # what is committed can be gone on from
        self._is_readable_again = True  # the source, by another attempt
        self._rows_before = 0  # what the meter said before the current attempt sent any
        self._committed_bytes = 0  # what the last attempt found committed
        self._notes: list[str] = []  # on the file and on trips, by the last attempt
        self._attempts_without_progress = 0  # since then: that sent rows and lost the database

    def until_published(self) -> Receipt:
        """Return the receipt of the published import. Raises LoaderError, Stopped."""
        deadline = time.monotonic() + self._limits.database_outage_seconds
        while True:
            try:
                return self._attempt()
            except LoaderError as error:
                lost = error.code is FailureCode.DATABASE_UNAVAILABLE and self.is_claimed
                if not lost or not self._is_readable_again:
                    raise
                if self._meter.rows_sent > self._rows_before:
                    deadline = time.monotonic() + self._limits.database_outage_seconds
                    self._rows_before = self._meter.rows_sent
                    self._attempts_without_progress += 1
                if (
                    time.monotonic() > deadline
                    or self._attempts_without_progress >= self._limits.max_attempts_without_progress
                ):
                    raise
            self._interrupt.sleep(_DATABASE_RETRY_SECONDS)

    def _attempt(self) -> Receipt:
        self._meter.enter("probing")
        source = open_source(self._job.source, self._limits, allowed_hosts=self._job.allowed_hosts)
        database = Database(self._database_url, self._limits, was_admitted=self.is_claimed)
        with contextlib.ExitStack() as stack:
            stack.callback(source.close)
            stack.enter_context(self._interrupt.aborting(source.close))
            stack.enter_context(self._interrupt.aborting(database.abort))
            probe = self._probe(source)
            failpoint.hit()
            stack.enter_context(
                Watchdog(database, lambda: self._meter.rows_sent, self._limits.watchdog_seconds)
            )
            control = self._interrupt.call(lambda: stack.enter_context(database.connection("control")))
            database.refuse_shared_sessions(control)
            end_backends(control)  # of the attempt before: what was lost to us, the server may not know yet
            self._prepare(control)
            new_tables = 1 + expected_parts(probe.info.size_bytes, self._worker_count, self._limits)
            self._notes = probe.header.notes + target_notes.find_notes(control)
            self._notes += target_notes.find_lock_note(control, new_tables)
            failpoint.hit()
            target = self._target(probe)
            claimed = self._claim(control, probe, target)
            if isinstance(claimed, Receipt):
                return claimed
            known, attempt = claimed
            self._announce(probe, known, attempt)
            remainder = self._load(control, database, probe, attempt)
            while True:
                staging.build_indexes(
                    control, attempt.import_key, self._interrupt, self._limits, self._meter.indexed
                )
                self._meter.enter("publishing")
                receipt = self._receipt(control, probe, known, attempt, remainder)
                failpoint.hit()
                with contextlib.suppress(IndexMissing):  # built next
                    publish.publish(control, attempt, target, receipt, self._interrupt, self._limits)
                    failpoint.hit()
                    return receipt

    def _probe(self, source: Source) -> _Probe:
        info = source.probe()
        self._refuse_unverified(source, info)
        header = read_header(info.head, is_whole=info.head_is_whole)
        if self._allowance.count == 0:
            rejects = first_rejects(info.head, header, self._limits.probed_rows, is_whole=info.head_is_whole)
            RejectCount(self._allowance, 0, None).add(rejects, len(info.head))
        self._is_readable_again = info.readable_again
        if info.compression is None and info.size_bytes is not None:
            self.data_bytes = info.size_bytes - header.data_start
        return _Probe(source, info, header)

    def _refuse_unverified(self, source: Source, info: SourceInfo) -> None:
        if self._job.require_verified_length and not source.length_verified:
            raise LoaderError(
                FailureCode.LENGTH_UNVERIFIED,
                f"Nothing says where {info.location} ends: if it were cut off, nobody would see it.",
                "Have the server announce a length, download a copy, or do without --require-verified-length.",
            )

    def _prepare(self, control: Connection) -> None:
        """Make sure of `trips` and the ledger; raises TABLE_CHANGED where an earlier attempt had another trips."""
        try:
            target_table.prepare(control)
        except LoaderError as error:
            if error.code is not FailureCode.TABLE_MISMATCH or self.import_id is None:
                raise
            if ledger.find_import(control, self.import_id) is None:
                raise
            raise staging.table_changed(error.failure.message) from error

    def _target(self, probe: _Probe) -> Target:
        return Target(
            location=probe.info.location,
            source_bytes=probe.info.size_bytes,
            validator=probe.info.validator,
            digest=probe.info.digest,
            data_start=probe.header.data_start,
            column_count=probe.header.column_count,
            mode=self._job.mode,
            force=self._job.force,
        )

    def _claim(self, control: Connection, probe: _Probe, target: Target) -> tuple[Import, Attempt] | Receipt:
        """Become the loader of the import; return its receipt where there is nothing left to do."""
        while True:
            found = import_lock.find_or_insert(control, self.import_id, target)
            if found.attempt == 0:  # nobody has loaded any of it: ours to remove if we are stopped here
                self.import_id = found.id
            failpoint.hit()
            import_lock.lock(control, found, self._interrupt, self._limits.import_lock_seconds)
            self.import_id = found.id  # not claimed yet: if the file is another one, the staging is kept
            number = import_lock.begin_attempt(control, found.import_key)
            if number is not None:
                break
            now = ledger.find_import(control, found.id)
            if now is not None and now.receipt is not None and now.state == "published":
                if (missing := import_tables.find_missing(control, now)) is not None:
                    raise import_tables.detached_error(now, missing.what)
                return msgspec.json.decode(now.receipt, type=Receipt)
            if now is not None:
                remove.remove(
                    control,
                    found.import_key,
                    self._interrupt,
                    self._meter.removed,
                    self._limits.trips_lock_seconds,
                )
            import_lock.unlock(control, found.import_key)
        import_lock.refuse_other_file(found, target)
        import_lock.update_source(control, found, target)
        self.is_claimed = True
        self.is_resumable = probe.info.resumable  # not before: another import's staging is not this source's
        if not self.is_resumable or found.validator is None:
            for part in ledger.parts(control, found.import_key):
                drop = partial(remove.drop_part, control, found.import_key, part)
                retry_while_locked(control, drop, self._interrupt, self._limits.trips_lock_seconds)
        failpoint.hit()
        staging.create_import_table(control, found.import_key, self._interrupt, self._limits)
        failpoint.hit()
        if lost := import_tables.lost_parts(control, found.import_key):
            ledger.delete_parts(control, lost)
            self._notes.append(
                f"{len(lost):,} loaded parts were dropped, renamed or moved: they are loaded again."
            )
        self._notes += import_lock.duplicate_notes(control, target, found.import_key)
        return found, Attempt(found.import_key, number, found.column_count)

    def _announce(self, probe: _Probe, known: Import, attempt: Attempt) -> None:
        self._send(
            Probed(
                import_id=str(known.id),
                source=probe.info.location,
                bytes_total=probe.info.size_bytes,
                validator=probe.info.validator,
                compression=probe.info.compression,
                attempt=attempt.number,
                resumed=attempt.number > 1,
                notes=self._notes,
            )
        )

    def _load(
        self, control: Connection, database: Database, probe: _Probe, attempt: Attempt
    ) -> PendingBlocks:
        """Load what is missing and attach its parts to the import's table."""
        info, key = probe.info, attempt.import_key
        committed = ledger.totals(control, key)
        self._rows_before = committed.rows_copied
        if committed.bytes > self._committed_bytes:
            self._committed_bytes, self._attempts_without_progress = committed.bytes, 0
        pool = BufferPool(
            self._limits.http_connections.at_start + self._worker_count + _SPARE_BUFFERS,
            self._limits.segment_bytes,
        )
        data_end = info.size_bytes if info.compression is None else None
        remainder = PendingBlocks(
            probe.source, pool, ledger.spans(control, key), probe.header.data_start, data_end
        )
        loaded_bytes = probe.header.data_start + committed.bytes if info.compression is None else 0
        self._meter.start(info.size_bytes, loaded_bytes, committed.rows_copied, committed.rows_rejected)
        self._meter.enter("loading")
        workers = Workers(
            database,
            attempt,
            self._worker_count,
            info.size_bytes,
            pool,
            self._interrupt,
            self._meter,
            RejectCount(self._allowance, committed.rows_rejected, data_end, committed.records, self._limits),
            self._limits,
        )
        workers.run(remainder.blocks(), probe.source.close)
        staging.attach_parts(control, key, self._interrupt, self._limits)
        return remainder

    def _receipt(
        self, control: Connection, probe: _Probe, claimed: Import, attempt: Attempt, remainder: PendingBlocks
    ) -> Receipt:
        """Return what the import proves, having seen that it does. Raises LoaderError."""
        info, key = probe.info, attempt.import_key
        self._refuse_unverified(probe.source, info)
        source_end = remainder.data_end
        if probe.source.compressed_bytes is not None:
            source_end = probe.source.compressed_bytes
        rows_attached = staging.attached_row_count(control, key)
        totals = proof.prove(
            control,
            key,
            allowance=self._allowance,
            data_start=claimed.data_start,
            data_end=remainder.data_end,
            source_end=source_end,
            source_bytes=info.size_bytes,
            rows_attached=rows_attached,
        )
        return Receipt(
            import_id=str(claimed.id),
            import_key=key,
            source=info.location,
            validator=info.validator,
            source_bytes=source_end,
            data_bytes=remainder.data_end,
            length_verified=probe.source.length_verified,
            blocks=totals.blocks,
            parts=totals.parts,
            rows_parsed=totals.records,
            rows_copied=totals.rows_copied,
            rows_published=rows_attached,
            rows_rejected=totals.rows_rejected,
            attempts=attempt.number,
            seconds=round(time.monotonic() - self._started, 3),
            published_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            notes=self._notes,
        )

    def tidy(self) -> None:
        """Refresh statistics and remove what was replaced: what is left then, the next publish or `gc` removes.

        Ends at a request to stop, and in bounded time. The import is published, so that nothing here is a failure.
        """
        database = Database(self._database_url, self._limits)
        deadline = time.monotonic() + _TIDY_SECONDS

        def check() -> None:
            self._interrupt.check()
            if time.monotonic() > deadline:
                raise TimeoutError

        with contextlib.suppress(Exception):
            call_in_daemon_thread(lambda: remove.tidy(database, self._interrupt), check)
        database.abort()
