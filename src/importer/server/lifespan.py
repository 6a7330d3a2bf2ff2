"""The parts of a running service: opened in order, handed to the API, closed in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog

from importer.api.limits import ConcurrencyLimit
from importer.api.metrics import MeasuredStore, Metrics
from importer.api.readiness import Readiness
from importer.server.connections import most_connections
from importer.settings import Settings
from importer.store.store import Store
from importer.supervisor.supervisor import Supervisor
from loader.embedded.server import embedded_server

T = TypeVar("T")

CONTROL_DB = "importer.sqlite"

# Listings of rejects that are read at a time: each holds a thread, and a connection to the target database.
_LISTINGS = 8

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Service:
    """What handlers use."""

    store: Store
    supervisor: Supervisor
    database_url: str
    readiness: Readiness
    metrics: Metrics
    watchers: ConcurrencyLimit = (
        field(  # of an import's changes: they stay, so the others keep half of all connections
            default_factory=lambda: ConcurrencyLimit(most_connections() // 2)
        )
    )
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


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncGenerator[Service]:
    """Open the control DB, have the target database up, start the supervisor; stop in reverse.

    Raises StoreError, LoaderError.
    """
    async with AsyncExitStack() as stack:
        settings.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = await MeasuredStore.open(settings.data_folder / CONTROL_DB)
        stack.push_async_callback(store.close)
        store.metrics = Metrics()
        database_url = settings.database_url or await _embedded(settings.data_folder, stack)
        supervisor = Supervisor(store, settings, database_url)
        await supervisor.start()
        stack.push_async_callback(supervisor.stop)
        yield Service(store, supervisor, database_url, Readiness(store, supervisor.probe), store.metrics)
        _log.info("service stops: loaders keep what is committed")


async def _embedded(folder: Path, stack: AsyncExitStack) -> str:
    """Have the embedded PostgreSQL up until the stack closes. In threads: after a crash it recovers for minutes."""
    server = embedded_server(folder)
    url = await asyncio.to_thread(server.__enter__)
    stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
    return url
