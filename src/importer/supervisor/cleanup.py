"""What imports have left in the database, taken away by `loader drop`: of cancelled, of failed, of removed ones.

What has to go is tried until it is gone; only then the control DB says so. A drop that is killed, as by a restart of
the service, is gone on with by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID

import structlog

from importer import failpoint
from importer.model import AttemptResult, Import, State
from importer.store.store import Store
from importer.supervisor.backoff import delays, until_stored
from importer.supervisor.ledger import LedgerReader
from importer.supervisor.limits import LIMITS, Limits
from importer.supervisor.loaders import Loaders
from importer.supervisor.outcome import LedgerState, LoaderExit, Staged, failure_of
from importer.tasks import KeyedTasks, UnhandledErrors, uninterrupted
from loader.contract import FailureCode, Receipt
from loader.errors import LoaderError

# Processes at a time. More than one, because one may wait for a long report to let go of the tables.
_PROCESSES = 4

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Cleanup:
    """A task for each import that is being cancelled and has no loader, and for each that is being removed."""

    def __init__(
        self,
        store: Store,
        ledger: LedgerReader,
        loaders: Loaders,
        defects: UnhandledErrors,
        limits: Limits = LIMITS,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._loaders = loaders
        self._limits = limits
        self._turns = asyncio.Semaphore(_PROCESSES)
        self._cancels = KeyedTasks(defects)
        self._removals = KeyedTasks(defects)

    def finish_cancel(self, import_id: UUID, end: LoaderExit | None = None) -> None:
        """See to it that an import becomes cancelled. `end`: of its last attempt, which is still open."""
        self._cancels.start(import_id, lambda: self._cancel(import_id, end))

    def finish_removal(self, removing: Import) -> None:
        """See to it that an import's rows and its record go."""
        self._removals.start(removing.id, lambda: self._remove(removing))

    async def stop(self, timeout_seconds: float) -> None:
        """Leave everything as it is now, for the next start to go on with."""
        await asyncio.gather(self._cancels.stop(timeout_seconds), self._removals.stop(timeout_seconds))

    async def clear(self, import_id: UUID, *, published: bool) -> Receipt | None:
        """Try once to remove an import's staging (`published`: also its visible rows); return its receipt if it has one.

        Raises LoaderError, CLEANUP_PENDING, where something is left, or the ledger could not be asked.
        """
        try:
            standing = await self._ledger.standing(import_id)
            said = ""
            if _is_left(standing, published=published):
                async with self._turns:
                    end = await self._drop(import_id, published=published)
                failpoint.hit()
                said = end.log
                log.info("drop ended", import_id=str(import_id), exit_code=end.exit_code, said=said)
                standing = await self._ledger.standing(import_id)
                if isinstance(standing, Receipt) and not await self._ledger.is_in_trips(import_id):
                    return standing  # somebody took it out of trips: its table is theirs, and its rows are not there
        except LoaderError as error:
            raise _pending(error.failure.message) from error
        if _is_left(standing, published=published):
            raise _pending(said.strip() or "`loader drop` said nothing")
        return standing if isinstance(standing, Receipt) else None

    async def _until_clear(self, import_id: UUID, *, published: bool) -> Receipt | None:
        """Try to clear again and again, and have the import show why that takes so long."""
        pauses = delays()
        while True:
            try:
                return await self.clear(import_id, published=published)
            except LoaderError as error:
                failure = error.failure
            log.warning("cleanup pending", import_id=str(import_id), error=failure.message)
            await until_stored(lambda failure=failure: self._store.show_cleanup_failure(import_id, failure))
            await asyncio.sleep(next(pauses))

    async def _drop(self, import_id: UUID, *, published: bool) -> LoaderExit:
        process = self._loaders.drop(import_id, published=published)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.drop_seconds):
                    await process.end()
        finally:
            process.kill()  # nothing, unless it takes too long, or we are being stopped
            end = await uninterrupted(process.end())
        return end

    async def _cancel(self, import_id: UUID, end: LoaderExit | None) -> None:
        receipt = await self._until_clear(import_id, published=False)
        ending = AttemptResult(
            state=State.CANCELLED if receipt is None else State.SUCCEEDED,
            exit_code=None if end is None else end.exit_code,
            error=failure_of(end) if end is not None and receipt is None else None,
            log="" if end is None else end.log,
            receipt=receipt,
        )
        moved = await until_stored(lambda: self._store.finish_attempt(import_id, ending))
        failpoint.hit()
        if moved is not None:
            log.info("cancel ended", import_id=str(import_id), state=moved.state)

    async def _remove(self, removing: Import) -> None:
        if removing.attempt_count:  # else it is in no ledger, and can go even if the database is down
            await self._until_clear(removing.id, published=True)
        failpoint.hit()
        await until_stored(lambda: self._store.delete(removing.id))
        failpoint.hit()
        log.info("removed", import_id=str(removing.id))


def _is_left(standing: LedgerState, *, published: bool) -> bool:
    return isinstance(standing, Staged) or (published and isinstance(standing, Receipt))


def _pending(reason: str) -> LoaderError:
    return LoaderError(
        FailureCode.CLEANUP_PENDING,
        f"What the import has in the database could not be removed yet: {reason}",
        "The service tries again, at least twice a minute, until nothing is left. If the reason names an object of the"
        " database, such as a foreign key or a view, drop that object; otherwise check that the database runs.",
    )
