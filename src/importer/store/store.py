"""The imports and attempts of the control DB: submit, claim, finish, cancel, retry, remove, list, and wait for a change.

Each transition is one UPDATE that is guarded by the states it may start from: the loser of a race gets None and reads the
row again. A call that has started is finished, and waiting requests are notified, even if its caller is cancelled. Every
call may raise StoreError, those that write also StoreBusy and StoreFull; nothing is changed then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from uuid import UUID

import aiosqlite
import msgspec

from importer.model import FINISHED, Attempt, AttemptResult, Import, JobChanges, State
from importer.store import rows, transitions
from importer.store.database import MIGRATIONS, ControlDatabase
from importer.store.notifier import Notifier
from importer.store.rows import ATTEMPT_COLUMNS, IMPORT_COLUMNS, Parameters, json_text, state_in, time_text
from loader.contract import Failure, Job, Phase, Progress, Receipt

NO_CHANGES = JobChanges()

# A report writes at least one page of SQLite's log, which is synced each time it has 1,000 pages:
# https://www.sqlite.org/pragma.html#pragma_wal_autocheckpoint
_MAX_LOST_VERSIONS = 1000


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Store:
    """The open control DB. To be used in one event loop."""

    def __init__(self, database: ControlDatabase, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._notifier = Notifier()

    @classmethod
    async def open(cls, path: Path, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open or create the file. Raises StoreLocked, StoreCorrupt, StoreNewer, StoreError."""
        return cls(await ControlDatabase.open(path), clock)

    async def close(self) -> None:
        """Finish the calls that have started, then release the file."""
        await self._database.close()

    # Requests

    async def submit(
        self, job: Job, idempotency_key: str | None, label: str | None = None
    ) -> tuple[Import, bool]:
        """Queue a job; return the import, and whether it is new (False: an earlier request had the same key and job).

        The caller chooses the job's import_id, a UUIDv7. A key is known as long as its import exists. Raises
        IdempotencyConflict if the key came with another job or label; import_ids are not compared.
        """
        now = self._clock()
        return await self._database.write(
            lambda connection: transitions.submit(connection, job, idempotency_key, label, now)
        )

    async def request_cancel(self, import_id: UUID) -> Import | None:
        """Cancel an import; None: it has finished, or does not exist. A second request changes nothing.

        An import without attempts is cancelled at once. Any other is `cancelling` until `finish_attempt` reports that its
        staging is removed.
        """
        updated = await self._move(
            import_id,
            [State.QUEUED, State.RUNNING],
            "state = CASE WHEN attempt_count = 0 THEN 'cancelled' ELSE 'cancelling' END,"
            " finished_at = CASE WHEN attempt_count = 0 THEN :now END, not_before = NULL, error = NULL",
        )
        found = updated or await self.get(import_id)
        return found if updated or (found and found.state is State.CANCELLING) else None

    async def retry(self, import_id: UUID, changes: JobChanges = NO_CHANGES) -> Import | None:
        """Queue the next attempt at once, with these changes to its job.

        For an import that failed, was cancelled, or waits after a failed attempt; None: its state is another, or it does
        not exist.
        """
        return _only(await self._change(lambda connection: transitions.retry(connection, import_id, changes)))

    async def request_removal(self, import_id: UUID, *, drops_rows: bool) -> Import | None:
        """Have the record of a finished import removed, and its rows if it has succeeded and `drops_rows`.

        None: it has not finished, has succeeded and `drops_rows` is false, or does not exist.
        """
        origins = FINISHED if drops_rows else FINISHED - {State.SUCCEEDED}
        return await self._move(import_id, origins, "state = 'removing', keeps_staging = 0")

    # Attempts and cleanup

    async def skip_lost_versions(self) -> None:
        """Raise the versions of imports that had a loader: a power cut may have undone reports that clients have seen.

        Without it the same version would be given to another state, and a client that waits for the next one would miss
        it. To be called before the first change.
        """
        await self._database.write(
            lambda connection: connection.execute(
                f"UPDATE import SET version = version + {_MAX_LOST_VERSIONS}"
                f" WHERE {state_in([State.RUNNING, State.CANCELLING])}"
            )
        )

    async def claim(self) -> Import | None:
        """Start an attempt at the first import in the queue that is due; None: there is none."""
        now = self._clock()
        return _only(await self._change(lambda connection: transitions.claim(connection, now)))

    async def report(self, import_id: UUID, phase: Phase, progress: Progress) -> Import | None:
        """Record a loader's progress; None: the import has no loader.

        Without an fsync: a power cut may undo the last reports, and their versions.
        """
        return await self._move(
            import_id,
            [State.RUNNING, State.CANCELLING],
            "phase = :phase, progress = :progress",
            {"phase": phase, "progress": json_text(progress)},
            durable=False,
        )

    async def show_outage(self, import_id: UUID, error: Failure | None) -> Import | None:
        """Show why the import's loader can't proceed; `error` None: it can again. None: no loader runs."""
        return await self._move(
            import_id, [State.RUNNING], "error = :error", {"error": json_text(error)}, durable=False
        )

    async def finish_attempt(self, import_id: UUID, result: AttemptResult) -> Import | None:
        """Finish the attempt that runs, if any, and move the import from running or cancelling to `result.state`.

        None: its state does not allow that (it was cancelled in the meantime, or has finished); nothing is changed. The
        attempt keeps any error; the import shows it if it failed or waits for the next attempt.
        """
        now = self._clock()
        return _only(
            await self._change(
                lambda connection: transitions.finish_attempt(connection, import_id, result, now)
            )
        )

    async def show_cleanup_failure(self, import_id: UUID, error: Failure) -> Import | None:
        """Show why the import's data are still in Postgres; None: it is neither cancelling nor removing."""
        return await self._move(
            import_id,
            [State.CANCELLING, State.REMOVING],
            "phase = NULL, error = :error",
            {"error": json_text(error)},
        )

    async def mark_published(
        self, import_id: UUID, receipt: Receipt, origin: State = State.FAILED
    ) -> Import | None:
        """Correct a failure: the ledger has the import as published. None: its state is not `origin`."""
        return await self._move(
            import_id,
            [origin],
            "state = 'succeeded', error = NULL, receipt = :receipt, keeps_staging = 0",
            {"receipt": json_text(receipt)},
        )

    async def delete(self, import_id: UUID) -> bool:
        """Delete the record of an import that is being removed; False: there is no such import."""
        sql = f"DELETE FROM import WHERE id = :id AND state = 'removing' RETURNING {IMPORT_COLUMNS}"
        return bool(await self._delete(sql, {"id": str(import_id)}))

    async def prune(self, older_than: datetime, staged: Collection[UUID] = ()) -> int:
        """Delete the records (not the rows in Postgres) of imports that finished before; return their number.

        Those in `staged` are kept: without its record an import's staging would never be removed.
        """
        sql = (
            f"DELETE FROM import WHERE {state_in(FINISHED)} AND finished_at < :older_than"
            f" AND id NOT IN (SELECT value FROM json_each(:staged)) RETURNING {IMPORT_COLUMNS}"
        )
        parameters = {
            "older_than": time_text(older_than),
            "staged": msgspec.json.encode(list(staged)).decode(),
        }
        return len(await self._delete(sql, parameters))

    # Queries

    async def require_writable(self) -> None:
        """Return if the file can be written. Writes a page of the log, since only that shows a full disk."""
        await self._database.write(
            lambda connection: connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}"), durable=False
        )

    async def get(self, import_id: UUID) -> Import | None:
        """Return an import; None: it does not exist."""
        return _only(await self._select("WHERE id = :id", {"id": str(import_id)}))

    async def attempts(
        self, import_id: UUID, *, limit: int | None = None, after_number: int = 0
    ) -> list[Attempt]:
        """Return the attempts at an import, oldest first: at most `limit`, only those after this one."""
        sql = (
            f"SELECT {ATTEMPT_COLUMNS} FROM attempt WHERE import_sequence = (SELECT sequence FROM import WHERE id = :id)"
            " AND number > :after ORDER BY number LIMIT :limit"
        )
        no_limit = -1  # https://www.sqlite.org/lang_select.html#limitoffset
        parameters = {
            "id": str(import_id),
            "after": after_number,
            "limit": no_limit if limit is None else limit,
        }
        return await self._database.read(lambda connection: rows.attempts(connection, sql, parameters))

    async def attempt_log(self, import_id: UUID, number: int) -> str | None:
        """Return the end of an attempt's stderr, empty while it runs; None: there is no such attempt."""
        sql = (
            "SELECT log FROM attempt WHERE import_sequence = (SELECT sequence FROM import WHERE id = :id)"
            " AND number = :number"
        )
        found = await self._database.read(
            lambda connection: rows.select(connection, sql, {"id": str(import_id), "number": number})
        )
        return None if not found else found[0][0]

    async def page(
        self,
        *,
        limit: int,
        states: Collection[State] = (),
        label: str | None = None,
        before_sequence: int | None = None,
    ) -> list[Import]:
        """Return at most `limit` imports, newest first: of these states, with this label, and of a lower sequence."""
        conditions = ["true"]
        if states:
            conditions.append(state_in(states))
        if label is not None:
            conditions.append("label = :label")
        if before_sequence is not None:
            conditions.append("sequence < :before")
        return await self._select(
            f"WHERE {' AND '.join(conditions)} ORDER BY sequence DESC LIMIT :limit",
            {"label": label, "before": before_sequence, "limit": limit},
        )

    async def unfinished(self) -> list[Import]:
        """Return the imports that are running, cancelling or removing, oldest first."""
        return await self._select(
            f"WHERE {state_in([State.RUNNING, State.CANCELLING, State.REMOVING])} ORDER BY sequence", {}
        )

    async def failed(self) -> list[UUID]:
        """Return the imports that failed after at least one attempt."""
        sql = "SELECT id FROM import WHERE state = 'failed' AND attempt_count > 0"
        found = await self._database.read(lambda connection: rows.select(connection, sql))
        return [UUID(import_id) for (import_id,) in found]

    async def next_due(self) -> datetime | None:
        """Return the earliest time in the future at which a queued import becomes due."""
        times = transitions.queue_times(self._clock())
        [(text,)] = await self._database.read(
            lambda connection: rows.select(connection, transitions.NEXT_DUE, times)
        )
        return None if text is None else datetime.fromisoformat(text)

    async def counts(self) -> dict[State, int]:
        """Return the number of imports in each state."""
        sql = "SELECT state, count(*) FROM import GROUP BY state"
        found = await self._database.read(lambda connection: rows.select(connection, sql))
        return dict.fromkeys(State, 0) | {State(state): count for state, count in found}

    async def wait_for_change(self, import_id: UUID, version: int, timeout_seconds: float) -> Import | None:
        """Return the import as soon as its version differs, or unchanged after the timeout; None: it does not exist."""
        with self._notifier.subscribe(import_id) as changes:
            found = await self.get(import_id)
            if found is None or found.version != version:
                return found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    while found is not None and found.version <= version:
                        found = await changes.get()
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
        transaction: Callable[[aiosqlite.Connection], Awaitable[list[Import]]],
        *,
        durable: bool = True,
    ) -> list[Import]:
        """Commit a transaction; notify those who wait for one of the imports that it returns."""

        def notify(changed: list[Import]) -> None:
            for one in changed:
                self._notifier.notify(one.id, one)

        return await self._database.write(transaction, durable=durable, on_commit=notify)

    async def _delete(self, sql: str, parameters: Parameters) -> list[Import]:
        def notify(deleted: list[Import]) -> None:
            for one in deleted:
                self._notifier.notify(one.id, None)

        return await self._database.write(
            lambda connection: rows.imports(connection, sql, parameters), on_commit=notify
        )

    async def _select(self, clauses: str, parameters: Parameters) -> list[Import]:
        sql = f"SELECT {IMPORT_COLUMNS} FROM import {clauses}"
        return await self._database.read(lambda connection: rows.imports(connection, sql, parameters))


def _only(imports: list[Import]) -> Import | None:
    return imports[0] if imports else None
