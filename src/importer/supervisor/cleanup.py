"""Removes what cancelled, failed and removed imports have left in the database, by `loader drop`.

A removal is repeated until the ledger confirms it; only then does the control DB say so. After a restart the next service
resumes it.
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
from importer.supervisor.limits import LIMITS, SupervisorLimits
from importer.supervisor.loaders import Loaders
from importer.supervisor.outcome import LedgerState, LoaderExit, Staged, failure_of
from importer.tasks import KeyedTasks, UnhandledErrors, uninterrupted
from loader.contract import FailureCode, Receipt
from loader.errors import LoaderError

# More than one, because one may wait for a long query to release the tables.
_MAX_PROCESSES = 4

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Cleanup:
    """A task for each import that is being removed, and for each that is being cancelled and has no loader."""

    def __init__(
        self,
        store: Store,
        ledger: LedgerReader,
        loaders: Loaders,
        unhandled_errors: UnhandledErrors,
        limits: SupervisorLimits = LIMITS,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._loaders = loaders
        self._limits = limits
        self._process_slots = asyncio.Semaphore(_MAX_PROCESSES)
        self._cancels = KeyedTasks(unhandled_errors)
        self._removals = KeyedTasks(unhandled_errors)

    def finish_cancel(self, import_id: UUID, end: LoaderExit | None = None) -> None:
        """Start to remove an import's staging, then mark it as cancelled. `end`: of its last attempt, if that is open."""
        self._cancels.start(import_id, lambda: self._cancel(import_id, end))

    def finish_removal(self, removing: Import) -> None:
        """Start to remove what an import has in the database, then its record.

        The rows of an import without a receipt are kept: it had failed when it was to be removed. If the ledger has it as
        published, it succeeds instead.
        """
        self._removals.start(removing.id, lambda: self._remove(removing))

    async def stop(self, timeout_seconds: float) -> None:
        """Stop all tasks. The next start resumes them."""
        await asyncio.gather(self._cancels.stop(timeout_seconds), self._removals.stop(timeout_seconds))

    async def clear(self, import_id: UUID, *, published: bool) -> Receipt | None:
        """Try once to remove an import's staging (`published`: also its visible rows); return its receipt if it has one.

        Raises LoaderError, CLEANUP_PENDING, if something is left or the ledger can't be read.
        """
        try:
            state = await self._ledger.state_of(import_id)
            output = ""
            if _is_left(state, published=published):
                async with self._process_slots:
                    end = await self._drop(import_id, published=published)
                failpoint.hit()
                output = end.log
                log.info("drop ended", import_id=str(import_id), exit_code=end.exit_code, output=output)
                state = await self._ledger.state_of(import_id)
                if isinstance(state, Receipt) and not await self._ledger.is_in_trips(import_id):
                    return state  # a user detached the table, and owns it
        except LoaderError as error:
            raise _pending(error.failure.message, error.failure.hint) from error
        if _is_left(state, published=published):
            raise _pending(output.strip() or "`loader drop` gave no reason")
        return state if isinstance(state, Receipt) else None

    async def _until_clear(self, import_id: UUID, *, published: bool) -> Receipt | None:
        """Repeat `clear` until it succeeds; meanwhile the import shows why it has not."""
        pauses = delays()
        while True:
            try:
                return await self.clear(import_id, published=published)
            except LoaderError as error:
                failure = error.failure
            log.warning("cleanup pending", import_id=str(import_id), error=failure.message, hint=failure.hint)
            await until_stored(lambda failure=failure: self._store.show_cleanup_failure(import_id, failure))
            await asyncio.sleep(next(pauses))

    async def _drop(self, import_id: UUID, *, published: bool) -> LoaderExit:
        process = self._loaders.drop(import_id, published=published)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.drop_seconds):
                    await process.end()
        finally:
            process.kill()  # after the timeout, or a cancellation
            end = await uninterrupted(process.end())
        return end

    async def _cancel(self, import_id: UUID, end: LoaderExit | None) -> None:
        receipt = await self._until_clear(import_id, published=False)
        result = AttemptResult(
            state=State.CANCELLED if receipt is None else State.SUCCEEDED,
            exit_code=None if end is None else end.exit_code,
            error=failure_of(end) if end is not None and receipt is None else None,
            log="" if end is None else end.log,
            receipt=receipt,
        )
        updated = await until_stored(lambda: self._store.finish_attempt(import_id, result))
        failpoint.hit()
        if updated is not None:
            log.info("cancel ended", import_id=str(import_id), state=updated.state)

    async def _remove(self, removing: Import) -> None:
        if removing.attempt_count:  # else no ledger has it, and no database is needed
            drops_rows = removing.receipt is not None
            receipt = await self._until_clear(removing.id, published=drops_rows)
            if receipt is not None and not drops_rows:
                await until_stored(lambda: self._store.mark_published(removing.id, receipt, State.REMOVING))
                log.info("removed import is published", import_id=str(removing.id))
                return
        failpoint.hit()
        await until_stored(lambda: self._store.delete(removing.id))
        failpoint.hit()
        log.info("removed", import_id=str(removing.id))


def _is_left(state: LedgerState, *, published: bool) -> bool:
    return isinstance(state, Staged) or (published and isinstance(state, Receipt))


def _pending(reason: str, hint: str = "") -> LoaderError:
    """Return the error for what is left. `hint`: of the database's error; that of `loader drop` is in its output."""
    return LoaderError(
        FailureCode.CLEANUP_PENDING,
        f"The import's data could not be removed from the database yet: {reason}",
        "The service tries again, at least twice a minute, until nothing is left. If the reason names an object of the"
        " database, such as a foreign key or a view, drop that object; otherwise check that the database runs."
        f" {hint}".rstrip(),
    )
