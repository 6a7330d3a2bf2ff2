"""Whether the service can do its work: it can write its control DB, and the target database can be used."""

from __future__ import annotations

import asyncio
import time

from importer.api.problems import ProblemCode, RequestProblem
from importer.store.errors import StoreError
from importer.store.store import Store
from importer.supervisor.database_probe import FRESH_SECONDS, DatabaseProbe

# A probe gives up about then, too. The look goes on, so that never more than one waits for a database that hangs.
PATIENCE_SECONDS = 5.0


class Readiness:
    """Asks both databases, once at a time for all who want to know."""

    def __init__(self, store: Store, probe: DatabaseProbe) -> None:
        self._store = store
        self._probe = probe
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
            await self._store.counts()  # first: what is damaged is not written to
            await self._store.require_writable()
        except StoreError as error:
            return error.message
        return None

    async def _target_fault(self) -> str | None:
        fault = await self._probe.look()
        return None if fault is None else fault.message
