"""What handlers use: the parts of the service, and the limits on long-lasting requests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

from importer.api.limits import RequestLimit
from importer.api.readiness import Readiness
from importer.store.store import Store
from importer.supervisor.supervisor import Supervisor

T = TypeVar("T")

# Each listing of rejects holds a thread and a connection to the target database.
_MAX_LISTINGS = 8


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of the service that handlers use."""

    store: Store
    supervisor: Supervisor
    database_url: str
    readiness: Readiness
    watchers: RequestLimit  # event streams and long polls
    listings: RequestLimit = field(default_factory=lambda: RequestLimit(_MAX_LISTINGS))  # of rejects
    closing: asyncio.Event = field(default_factory=asyncio.Event)  # set when the service is about to stop

    async def unless_closing(
        self, wait: Coroutine[object, object, T], *ends: Coroutine[object, object, object]
    ) -> T | None:
        """Return the result of `wait`; None as soon as one of `ends` returns or the service is about to stop."""
        waiting = asyncio.ensure_future(wait)
        others = [asyncio.ensure_future(each) for each in (self.closing.wait(), *ends)]
        try:
            await asyncio.wait({waiting, *others}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            for each in (waiting, *others):
                each.cancel()
