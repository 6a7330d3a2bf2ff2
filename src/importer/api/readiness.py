"""Readiness: the service can write its control DB and use the target database."""

from __future__ import annotations

import asyncio
import time

from importer.api.problems import ProblemCode, RequestProblem
from importer.store.errors import StoreError
from importer.store.store import Store
from importer.supervisor.database_probe import FRESH_SECONDS, DatabaseProbe

# About the time limit of the probe. The check continues after it, so that at most one waits for a database that hangs.
_TIMEOUT_SECONDS = 5.0


class Readiness:
    """Checks both databases. Concurrent requests share one check."""

    def __init__(self, store: Store, probe: DatabaseProbe) -> None:
        self._store = store
        self._probe = probe
        self._check: asyncio.Task[list[str]] | None = None
        self._checked_at = float("-inf")

    async def require(self) -> None:
        """Return if both databases can be used; raise NOT_READY, which says which can't."""
        if self._check is None or (
            self._check.done() and time.monotonic() - self._checked_at > FRESH_SECONDS
        ):
            self._check = asyncio.create_task(self._check_both())
        try:  # shielded: a client that leaves must not cancel the check of the others
            faults = await asyncio.wait_for(asyncio.shield(self._check), _TIMEOUT_SECONDS)
        except TimeoutError:
            faults = [f"The databases did not respond within {_TIMEOUT_SECONDS:.0f} s."]
        if faults:
            raise RequestProblem(ProblemCode.NOT_READY, " ".join(faults))

    async def _check_both(self) -> list[str]:
        faults = await asyncio.gather(self._control_db_fault(), self._target_fault())
        self._checked_at = time.monotonic()
        return [fault for fault in faults if fault is not None]

    async def _control_db_fault(self) -> str | None:
        try:
            await self._store.counts()  # first: a damaged file must not be written
            await self._store.require_writable()
        except StoreError as error:
            return error.message
        return None

    async def _target_fault(self) -> str | None:
        fault = await self._probe.check()
        return None if fault is None else f"{fault.message} {fault.hint}"
