"""The parts of a running service: opened in order, closed in reverse order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from importer.api.limits import RequestLimit
from importer.api.metrics import MeasuredStore
from importer.api.readiness import Readiness
from importer.api.state import Service
from importer.server.client_connections import max_connections
from importer.settings import Settings
from importer.supervisor.supervisor import Supervisor
from loader.embedded.server import embedded_server

CONTROL_DB = "importer.sqlite"

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncGenerator[Service]:
    """Open the control DB, start the embedded PostgreSQL if it is used, start the supervisor; stop them in reverse.

    Raises StoreError, LoaderError.
    """
    async with AsyncExitStack() as stack:
        settings.data_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = await MeasuredStore.open(settings.data_folder / CONTROL_DB)
        stack.push_async_callback(store.close)
        database_url = settings.database_url or await _embedded(settings.data_folder, stack)
        supervisor = Supervisor(store, settings, database_url)
        await supervisor.start()
        stack.push_async_callback(supervisor.stop)
        yield Service(
            store,
            supervisor,
            database_url,
            Readiness(store, supervisor.probe),
            # Watchers keep their connections. Half of all connections are left for other requests.
            watchers=RequestLimit(max_connections() // 2),
        )
        _log.info("service stops: loaders keep what is committed")


async def _embedded(folder: Path, stack: AsyncExitStack) -> str:
    """Start the embedded PostgreSQL; the stack stops it. In threads: after a crash its recovery can take minutes."""
    server = embedded_server(folder)
    url = await asyncio.to_thread(server.__enter__)
    stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
    return url
