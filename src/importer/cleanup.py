"""What imports have left in the database, taken away by `loader drop`: of cancelled, of failed, of removed ones.

What has to go is tried until it is gone; only then the control DB says so. A drop that is killed, as by a restart of
the service, is gone on with by the next.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from importer.imports import Import, State
from importer.keyed_tasks import KeyedTasks
from importer.ledger_reader import LedgerReader
from importer.loader_process import Loaders
from importer.outcome import End, Staged, Standing, failure_of
from importer.patience import delays, uninterrupted, until_stored
from importer.store import Store
from loader.wire import Receipt

# Processes at a time. More than one, because one may wait for a long report to let go of the tables.
_PROCESSES = 4

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Cleanup:
    """A task for each import that is being cancelled and has no loader, and for each that is being removed."""

    def __init__(self, store: Store, ledger: LedgerReader, loaders: Loaders) -> None:
        self._store = store
        self._ledger = ledger
        self._loaders = loaders
        self._turns = asyncio.Semaphore(_PROCESSES)
        self._cancels = KeyedTasks()
        self._removals = KeyedTasks()

    def finish_cancel(self, import_id: UUID, end: End | None = None) -> None:
        """See to it that an import becomes cancelled. `end`: of its last attempt, which is still open."""
        self._cancels.begin(import_id, lambda: self._cancel(import_id, end))

    def finish_removal(self, removing: Import) -> None:
        """See to it that an import's rows and its record go."""
        self._removals.begin(removing.id, lambda: self._remove(removing))

    async def stop(self, timeout_seconds: float) -> None:
        """Leave everything as it is now, for the next start to go on with."""
        await asyncio.gather(self._cancels.stop(timeout_seconds), self._removals.stop(timeout_seconds))

    async def clear(self, import_id: UUID, *, published: bool) -> Standing:
        """Try once to remove an import's staging (`published`: also its visible rows); return what the ledger says then."""
        standing = await self._ledger.standing(import_id)
        if isinstance(standing, Staged) or (published and isinstance(standing, Receipt)):
            async with self._turns:
                end = await self._drop(import_id, published=published)
            log.info("drop ended", import_id=str(import_id), exit_code=end.exit_code, said=end.log)
            standing = await self._ledger.standing(import_id)
        return standing

    async def _drop(self, import_id: UUID, *, published: bool) -> End:
        process = self._loaders.drop(import_id, published=published)
        try:
            return await process.end()
        finally:
            process.kill()  # nothing, unless we are being stopped
            await uninterrupted(process.end())

    async def _cancel(self, import_id: UUID, end: End | None) -> None:
        standing: Standing = "unknown"
        for delay in delays():
            standing = await self.clear(import_id, published=False)
            if isinstance(standing, Receipt) or standing == "absent":
                break
            log.warning("staging not removed yet", import_id=str(import_id), again_in_seconds=round(delay, 1))
            await asyncio.sleep(delay)
        receipt = standing if isinstance(standing, Receipt) else None
        moved = await until_stored(
            lambda: self._store.finish_attempt(
                import_id,
                state=State.CANCELLED if receipt is None else State.SUCCEEDED,
                exit_code=None if end is None else end.exit_code,
                error=failure_of(end) if end is not None and receipt is None else None,
                log="" if end is None else end.log,
                receipt=receipt,
            )
        )
        if moved is not None:
            log.info("cancel ended", import_id=str(import_id), state=moved.state)

    async def _remove(self, removing: Import) -> None:
        for delay in delays():
            # what never had a loader is in no ledger, and can go even if the database is down
            if not removing.attempt_count or await self.clear(removing.id, published=True) == "absent":
                break
            log.warning("rows not removed yet", import_id=str(removing.id), again_in_seconds=round(delay, 1))
            await asyncio.sleep(delay)
        await until_stored(lambda: self._store.delete(removing.id))
        log.info("removed", import_id=str(removing.id))
