"""The control DB's imports and attempts: submit, claim, report, end, cancel, retry, remove, list, and wait for a change.

It alone says what was asked for. Every move is one UPDATE guarded by the states it may start from: whoever comes
second gets None and looks again. What a call has begun is done and told to those who wait, even if its caller is
cancelled. Any call may raise StoreError, those that write StoreBusy and StoreFull; nothing is changed then.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from uuid import UUID

import msgspec

from importer.model import FINISHED, Attempt, AttemptResult, Import, State
from importer.store import rows, transitions
from importer.store.database import MIGRATIONS, ControlDatabase
from importer.store.notifier import Notifier
from importer.store.rows import ATTEMPT_COLUMNS, IMPORT_COLUMNS, Parameters, among, json_text, time_text
from loader.contract import Failure, Job, Phase, Progress, Receipt


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class Store:
    """The open control DB. To be used in one event loop."""

    def __init__(self, database: ControlDatabase, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._changes = Notifier()

    @classmethod
    async def open(cls, path: Path, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open the file, or make it; raises StoreLocked, StoreCorrupt, StoreNewer, StoreError."""
        return cls(await asyncio.to_thread(ControlDatabase, path), clock)

    async def close(self) -> None:
        """Finish what was begun, and let another service have the file."""
        await asyncio.to_thread(self._database.close)

    # What is asked for

    async def submit(self, job: Job, idempotency_key: str | None) -> tuple[Import, bool]:
        """Put a job into the queue; return the import, and whether it is new or the one this key was used for before.

        The job's import_id is the caller's choice, a UUIDv7. A key is known as long as its import is. Raises
        IdempotencyConflict when the key came with another job; the import_id makes no difference.
        """
        now = self._clock()
        submitting = self._database.write(
            lambda connection: transitions.submit(connection, job, idempotency_key, now)
        )
        return await asyncio.shield(submitting)

    async def request_cancel(self, import_id: UUID) -> Import | None:
        """Ask for an import to end without rows. Asked for twice is once; None: it has ended, or there is none.

        Cancelled at once is what never ran. Where a loader runs, or has run, it is `cancelling` until
        `finish_attempt` says that the staging is gone.
        """
        moved = await self._move(
            import_id,
            [State.QUEUED, State.RUNNING],
            "state = CASE WHEN attempt_count = 0 THEN 'cancelled' ELSE 'cancelling' END,"
            " finished_at = CASE WHEN attempt_count = 0 THEN :now END, not_before = NULL, error = NULL",
        )
        found = moved or await self.get(import_id)
        return found if moved or (found and found.state is State.CANCELLING) else None

    async def retry(self, import_id: UUID, source: str | None = None) -> Import | None:
        """Have an import tried again as soon as a slot is free, from this URL if there is one.

        One that failed, was cancelled, or waits after a failed attempt; None: it is in another state, or gone.
        """
        return _only(await self._change(lambda connection: transitions.retry(connection, import_id, source)))

    async def request_removal(self, import_id: UUID) -> Import | None:
        """Ask for the rows and the record of a finished import to go; None: it is in another state, or gone."""
        return await self._move(import_id, FINISHED, "state = 'removing', keeps_staging = 0")

    # What happens to it

    async def claim(self) -> Import | None:
        """Begin an attempt at the first import in the queue that is due; None: there is none."""
        now = self._clock()
        return _only(await self._change(lambda connection: transitions.claim(connection, now)))

    async def report(self, import_id: UUID, phase: Phase, progress: Progress) -> Import | None:
        """Write down what a loader reports; None: no loader can be at this import.

        Costs no fsync: a power cut may take the last reports, and the versions that they had, back.
        """
        return await self._move(
            import_id,
            [State.RUNNING, State.CANCELLING],
            "phase = :phase, progress = :progress",
            {"phase": phase, "progress": json_text(progress)},
            durable=False,
        )

    async def finish_attempt(self, import_id: UUID, ending: AttemptResult) -> Import | None:
        """End the attempt that runs, if one does, and move the import from running or cancelling to `ending.state`.

        None: that is no move from where it is (cancel was asked for meanwhile, or it has ended), nothing is changed. The
        attempt keeps any error; the import shows that of a failure, or of one that it waits after.
        """
        now = self._clock()
        return _only(
            await self._change(
                lambda connection: transitions.finish_attempt(connection, import_id, ending, now)
            )
        )

    async def postpone_cleanup(self, import_id: UUID, error: Failure) -> Import | None:
        """Show why what an import has in Postgres is still there; None: nothing of it is on its way out."""
        return await self._move(
            import_id,
            [State.CANCELLING, State.REMOVING],
            "phase = NULL, error = :error",
            {"error": json_text(error)},
        )

    async def found_published(self, import_id: UUID, receipt: Receipt) -> Import | None:
        """Correct what was taken for a failure while the ledger could not be asked; None: it is none any more."""
        return await self._move(
            import_id,
            [State.FAILED],
            "state = 'succeeded', error = NULL, receipt = :receipt, keeps_staging = 0",
            {"receipt": json_text(receipt)},
        )

    async def delete(self, import_id: UUID) -> bool:
        """Delete the record of an import that is being removed; False: there is none such."""
        deleted = await self._change(
            lambda connection: rows.imports(
                connection,
                f"DELETE FROM import WHERE id = :id AND state = 'removing' RETURNING {IMPORT_COLUMNS}",
                {"id": str(import_id)},
            ),
            gone=True,
        )
        return bool(deleted)

    async def prune(self, older_than: datetime, staged: Collection[UUID] = ()) -> int:
        """Delete the records (not the rows in Postgres) of imports that finished before; return how many.

        Not of those that have staging: without its record nobody would look for it.
        """
        pruned = await self._change(
            lambda connection: rows.imports(
                connection,
                f"DELETE FROM import WHERE {among(FINISHED)} AND finished_at < :older_than"
                f" AND id NOT IN (SELECT value FROM json_each(:staged)) RETURNING {IMPORT_COLUMNS}",
                {
                    "older_than": time_text(older_than),
                    "staged": msgspec.json.encode(list(staged)).decode(),
                },
            ),
            gone=True,
        )
        return len(pruned)

    async def show_outage(self, import_id: UUID, error: Failure | None) -> Import | None:
        """Show why the loader that runs gets no further, or that it does again (None); None: no loader runs."""
        return await self._move(
            import_id, [State.RUNNING], "error = :error", {"error": json_text(error)}, durable=False
        )

    # What there is

    async def require_writable(self) -> None:
        """Return if something can be written now. Writes a page of the log: a full disk shows only then."""
        await self._database.write(
            lambda connection: connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}"), durable=False
        )

    async def get(self, import_id: UUID) -> Import | None:
        """Return an import as it is now."""
        sql = f"SELECT {IMPORT_COLUMNS} FROM import WHERE id = :id"
        return _only(
            self._database.look(lambda connection: rows.imports(connection, sql, {"id": str(import_id)}))
        )

    async def attempts(self, import_id: UUID) -> list[Attempt]:
        """Return the attempts at an import, oldest first."""
        sql = (
            f"SELECT {ATTEMPT_COLUMNS} FROM attempt WHERE import_sequence = (SELECT sequence FROM import WHERE id = :id)"
            " ORDER BY number"
        )
        parameters: Parameters = {"id": str(import_id)}
        return await self._database.read(lambda connection: rows.attempts(connection, sql, parameters))

    async def page(self, *, state: State | None, limit: int, before_sequence: int | None) -> list[Import]:
        """Return imports, newest first: at most `limit`, in this state only, submitted before that one only."""
        conditions = ["true"]
        if state is not None:
            conditions.append("state = :state")
        if before_sequence is not None:
            conditions.append("sequence < :before")
        return await self._select(
            f"WHERE {' AND '.join(conditions)} ORDER BY sequence DESC LIMIT :limit",
            {"state": state, "before": before_sequence, "limit": limit},
        )

    async def unfinished(self) -> list[Import]:
        """Return the imports that were in somebody's hands, oldest first: after a start there is nobody."""
        return await self._select(
            f"WHERE {among([State.RUNNING, State.CANCELLING, State.REMOVING])} ORDER BY sequence", {}
        )

    async def failed(self) -> list[UUID]:
        """Return the imports that failed after a loader was at them."""
        sql = "SELECT id FROM import WHERE state = 'failed' AND attempt_count > 0"
        return await self._database.read(
            lambda connection: [UUID(row["id"]) for row in connection.execute(sql)]
        )

    async def next_due(self) -> datetime | None:
        """Return the earliest time in the future at which a queued import becomes due."""
        times = transitions.queue_times(self._clock())
        (text,) = await self._database.read(
            lambda connection: connection.execute(transitions.NEXT_DUE, times).fetchone()
        )
        return None if text is None else datetime.fromisoformat(text)

    async def counts(self) -> dict[State, int]:
        """Return how many imports there are in each state."""
        rows = await self._database.read(
            lambda connection: connection.execute(
                "SELECT state, count(*) FROM import GROUP BY state"
            ).fetchall()
        )
        return dict.fromkeys(State, 0) | {State(state): count for state, count in rows}

    async def wait_for_change(self, import_id: UUID, version: int, timeout_seconds: float) -> Import | None:
        """Return the import once its version is another than this one, or as it is after the time; None: it is gone."""
        with self._changes.of(import_id) as told:  # before looking, so that no change falls between
            found = await self.get(import_id)
            if found is None or found.version != version:
                return found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    while found is not None and found.version <= version:
                        found = await told.get()
            return found

    async def _move(
        self,
        import_id: UUID,
        origins: Collection[State],
        assignments: str,
        parameters: Parameters | None = None,
        *,
        durable: bool = True,
    ) -> Import | None:
        row = {"now": time_text(self._clock()), **(parameters or {})}
        return _only(
            await self._change(
                lambda connection: rows.update_import(connection, import_id, origins, assignments, row),
                durable=durable,
            )
        )

    async def _change(
        self,
        transaction: Callable[[sqlite3.Connection], list[Import]],
        *,
        gone: bool = False,
        durable: bool = True,
    ) -> list[Import]:
        """Commit a transaction and tell those who wait for one of the imports that it returns."""

        def tell(change: asyncio.Future[list[Import]]) -> None:
            for changed in change.result() if change.exception() is None else ():
                self._changes.tell(changed.id, None if gone else changed)

        change = self._database.write(transaction, durable=durable)
        change.add_done_callback(tell)
        return await asyncio.shield(change)

    async def _select(self, clauses: str, parameters: Parameters) -> list[Import]:
        return await self._database.read(
            lambda connection: rows.imports(
                connection, f"SELECT {IMPORT_COLUMNS} FROM import {clauses}", parameters
            )
        )


def _only(imports: list[Import]) -> Import | None:
    return imports[0] if imports else None
