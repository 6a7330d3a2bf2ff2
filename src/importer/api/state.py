"""What handlers use: the service's parts, and the limits on requests that last."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

from importer.api.limits import ConcurrencyLimit
from importer.api.metrics import Metrics
from importer.api.readiness import Readiness
from importer.store.store import Store
from importer.supervisor.supervisor import Supervisor

T = TypeVar("T")

# Listings of rejects that are read at a time: each holds a thread, and a connection to the target database.
_LISTINGS = 8


@dataclass(frozen=True, slots=True)
class Service:
    """What handlers use."""

    store: Store
    supervisor: Supervisor
    database_url: str
    readiness: Readiness
    metrics: Metrics
    watchers: ConcurrencyLimit  # of an import's changes
    listings: ConcurrencyLimit = field(default_factory=lambda: ConcurrencyLimit(_LISTINGS))  # of rejects
    closing: asyncio.Event = field(default_factory=asyncio.Event)  # the service is about to stop

    async def unless_closing(
        self, wait: Coroutine[object, object, T], *ends: Coroutine[object, object, object]
    ) -> T | None:
        """Return what `wait` does; None as soon as the service is about to stop, so that no answer holds it up.

        `ends`: what else ends the waiting when it returns.
        """
        waiting = asyncio.ensure_future(wait)
        others = [asyncio.ensure_future(each) for each in (self.closing.wait(), *ends)]
        try:
            await asyncio.wait({waiting, *others}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            for each in (waiting, *others):
                each.cancel()
