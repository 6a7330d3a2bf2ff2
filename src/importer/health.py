"""Whether the service can do its work: it knows its two databases."""

from __future__ import annotations

import asyncio
import time

from importer.errors import StoreError
from importer.ledger_reader import LedgerReader
from importer.problems import ProblemCode, RequestProblem
from importer.store import Store
from loader.errors import LoaderError

# Whoever asks within this time gets the answer that is there: any number of probes costs one connection a second.
FRESH_SECONDS = 1.0
# A probe gives up about then, too. The look goes on, so that never more than one waits for a database that hangs.
PATIENCE_SECONDS = 5.0


class Readiness:
    """Asks both databases, once at a time for all who want to know."""

    def __init__(self, store: Store, database_url: str) -> None:
        self._store = store
        self._ledger = LedgerReader(database_url)
        self._check: asyncio.Task[list[str]] | None = None
        self._checked_at = float("-inf")

    async def require(self) -> None:
        """Return if both can be used; raise the problem that tells which can't."""
        if self._check is None or (
            self._check.done() and time.monotonic() - self._checked_at > FRESH_SECONDS
        ):
            self._check = asyncio.create_task(self._look())
        try:  # shielded: one who leaves must not take the answer from the others
            faults = await asyncio.wait_for(asyncio.shield(self._check), PATIENCE_SECONDS)
        except TimeoutError:
            faults = [f"The databases did not answer within {PATIENCE_SECONDS:.0f} s."]
        if faults:
            raise RequestProblem(ProblemCode.NOT_READY, " ".join(faults))

    async def _look(self) -> list[str]:
        faults = await asyncio.gather(self._control_db_fault(), self._target_fault())
        self._checked_at = time.monotonic()
        return [fault for fault in faults if fault is not None]

    async def _control_db_fault(self) -> str | None:
        try:
            await self._store.counts()
        except StoreError as error:
            return error.message
        return None

    async def _target_fault(self) -> str | None:
        try:
            await self._ledger.server_version()
        except LoaderError as error:
            return error.failure.message
        return None
