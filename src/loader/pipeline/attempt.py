"""One attempt at an import: probe, lock, load what is missing, publish."""

from __future__ import annotations

import contextlib
import datetime
import time

import msgspec

from loader import failpoint
from loader.buffers import BufferPool
from loader.contract import FailureCode, Probed, Receipt
from loader.embedded.database_text import database_text
from loader.encoding.header import Header, read_header, try_first_rows
from loader.encoding.zones import first_zone
from loader.errors import LoaderError
from loader.pipeline import proof
from loader.pipeline.commit_schedule import expected_parts
from loader.pipeline.coverage import PendingBlocks
from loader.pipeline.locked_import import LockedImport, lock_import
from loader.pipeline.reject_limit import Allowance, RejectCount
from loader.pipeline.state import ImportState, RunContext
from loader.pipeline.workers import Workers, default_worker_count
from loader.postgres import ledger, publish, staging, target_notes, target_table
from loader.postgres.connection import Connection, Database, end_backends
from loader.postgres.import_lock import Target
from loader.postgres.indexing import IndexMissing
from loader.postgres.watchdog import Watchdog
from loader.source.open import Source, SourceInfo, open_source

# Beyond the buffers that are being filled and those that are being encoded, so that neither side waits for the other's
# last step.
_SPARE_BUFFERS = 2


class _Probe(msgspec.Struct, frozen=True):
    """What the probe found."""

    source: Source
    info: SourceInfo
    header: Header


class ImportAttempt:
    """One attempt of a run. It loads what the ledger does not have of the file."""

    def __init__(self, context: RunContext, state: ImportState, allowance: Allowance, started: float) -> None:
        """`started`: when the run started, by time.monotonic()."""
        self._context = context
        self._job = context.job
        self._limits = context.limits
        self._interrupt = context.interrupt
        self._meter = context.meter
        self._state = state
        self._started = started
        self._allowance = allowance
        self._worker_count = context.job.workers or default_worker_count()
        self._notes: list[str] = []  # on the file and on trips
        self._database_text = ""  # once it is connected

    def run(self) -> Receipt:
        """Publish the import, or find it published; return the receipt. Raises LoaderError, Stopped."""
        self._meter.enter("probing")
        job = self._job
        source = open_source(
            job.source,
            self._limits.with_read_timeout(job.read_timeout_seconds),
            allowed_hosts=job.allowed_hosts,
            ignore_etag=job.ignore_etag,
        )
        database = Database(self._context.database_url, self._limits, was_admitted=self._state.is_owned)
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
            self._database_text = database_text(control.info.host, control.info.port, control.info.dbname)
            database.refuse_shared_sessions(control)
            # of the attempt before: the server may not know yet that their connections are lost
            end_backends(control)
            self._prepare(control, probe)
            failpoint.hit()
            target = self._target(probe)
            locked = lock_import(
                self._context, self._state, control, target, is_resumable=probe.info.resumable
            )
            if isinstance(locked, Receipt):
                return locked
            self._notes += locked.notes
            self._announce(probe, locked)
            pending = self._load(control, database, probe, locked)
            return self._publish(control, probe, target, locked, pending)

    def _probe(self, source: Source) -> _Probe:
        info = source.probe()
        self._refuse_unverified(source, info)
        header = read_header(info.head, is_whole=info.head_is_whole)
        rows = try_first_rows(info.head, header, self._limits.probed_rows, is_whole=info.head_is_whole)
        if self._allowance.count == 0:
            RejectCount(self._allowance, 0, None).add(rows.rejects, len(info.head))
        self._state.zone = first_zone((self._state.zone, rows.zone))
        self._state.is_readable_again = info.readable_again
        if info.compression is None and info.size_bytes is not None:
            self._state.data_bytes = info.size_bytes - header.data_start
        return _Probe(source, info, header)

    def _refuse_unverified(self, source: Source, info: SourceInfo) -> None:
        if self._job.require_verified_length and not source.length_verified:
            raise LoaderError(
                FailureCode.LENGTH_UNVERIFIED,
                f"{info.location} announces no length, so a truncated download can't be detected.",
                "Have the server announce a length, import a local copy, or omit --require-verified-length.",
            )

    def _prepare(self, control: Connection, probe: _Probe) -> None:
        """Create or check trips and the ledger, and collect notes.

        Raises TABLE_CHANGED where trips no longer fits an import that an earlier attempt has started.
        """
        try:
            target_table.prepare(control)
        except LoaderError as error:
            import_id = self._state.import_id
            if error.code is not FailureCode.TABLE_MISMATCH or import_id is None:
                raise
            if ledger.find_import(control, import_id) is None:
                raise
            raise staging.table_changed(error.failure.message) from error
        new_tables = 1 + expected_parts(probe.info.size_bytes, self._worker_count, self._limits)
        self._notes = probe.header.notes + target_notes.find_notes(control)
        self._notes += target_notes.find_lock_note(control, new_tables)

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

    def _announce(self, probe: _Probe, locked: LockedImport) -> None:
        self._context.send(
            Probed(
                import_id=str(locked.known.id),
                source=probe.info.location,
                bytes_total=probe.info.size_bytes,
                validator=probe.info.validator,
                compression=probe.info.compression,
                attempt=locked.attempt.number,
                resumed=locked.attempt.number > 1,
                database=self._database_text,
                notes=self._all_notes(),
            )
        )

    def _all_notes(self) -> list[str]:
        zone = self._state.zone
        return self._notes if zone is None else [*self._notes, zone.note()]

    def _load(
        self, control: Connection, database: Database, probe: _Probe, locked: LockedImport
    ) -> PendingBlocks:
        """Load what is missing and attach the parts to the import's table."""
        info, key, state = probe.info, locked.attempt.import_key, self._state
        committed = ledger.totals(control, key)
        state.rows_before = committed.rows_copied
        if committed.bytes > state.committed_bytes:
            state.committed_bytes, state.attempts_without_progress = committed.bytes, 0
        pool = BufferPool(
            self._limits.http_connections.at_start + self._worker_count + _SPARE_BUFFERS,
            self._limits.segment_bytes,
        )
        data_start = probe.header.data_start
        data_end = info.size_bytes if info.compression is None else None
        pending = PendingBlocks(probe.source, pool, ledger.spans(control, key), data_start, data_end)
        loaded_bytes = data_start + committed.bytes if info.compression is None else 0
        self._meter.start(info.size_bytes, loaded_bytes, committed.rows_copied, committed.rows_rejected)
        self._meter.enter("loading")
        reject_count = RejectCount(
            self._allowance, committed.rows_rejected, data_end, committed.records, self._limits
        )
        workers = Workers(
            database,
            locked.attempt,
            self._worker_count,
            info.size_bytes,
            pool,
            self._interrupt,
            self._meter,
            reject_count,
            self._limits,
        )
        try:
            workers.run(pending.blocks(), probe.source.close)
        finally:
            state.zone = first_zone((state.zone, workers.zone))
        staging.attach_parts(control, key, self._interrupt, self._limits)
        return pending

    def _publish(
        self, control: Connection, probe: _Probe, target: Target, locked: LockedImport, pending: PendingBlocks
    ) -> Receipt:
        """Build missing indexes and publish, until no index is missing."""
        attempt, interrupt, limits = locked.attempt, self._interrupt, self._limits
        while True:
            staging.build_indexes(control, attempt.import_key, interrupt, limits, self._meter.indexed)
            self._meter.enter("publishing")
            receipt = self._receipt(control, probe, locked, pending)
            failpoint.hit()
            with contextlib.suppress(IndexMissing):
                publish.publish(control, attempt, target, receipt, interrupt, limits)
                failpoint.hit()
                return receipt

    def _receipt(
        self, control: Connection, probe: _Probe, locked: LockedImport, pending: PendingBlocks
    ) -> Receipt:
        """Check the proof and return it as a receipt. Raises LENGTH_UNVERIFIED and what `proof.prove` raises."""
        info, key = probe.info, locked.attempt.import_key
        self._refuse_unverified(probe.source, info)
        source_end = pending.data_end
        if probe.source.compressed_bytes is not None:
            source_end = probe.source.compressed_bytes
        rows_attached = staging.attached_row_count(control, key)
        totals = proof.prove(
            control,
            key,
            allowance=self._allowance,
            data_start=locked.known.data_start,
            data_end=pending.data_end,
            source_end=source_end,
            source_bytes=info.size_bytes,
            rows_attached=rows_attached,
        )
        return Receipt(
            import_id=str(locked.known.id),
            import_key=key,
            source=info.location,
            validator=info.validator,
            source_bytes=source_end,
            data_bytes=pending.data_end,
            length_verified=probe.source.length_verified,
            blocks=totals.blocks,
            parts=totals.parts,
            rows_parsed=totals.records,
            rows_copied=totals.rows_copied,
            rows_published=rows_attached,
            rows_rejected=totals.rows_rejected,
            attempts=locked.attempt.number,
            seconds=round(time.monotonic() - self._started, 3),
            published_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            database=self._database_text,
            notes=self._all_notes(),
        )
