"""The service as a process: one socket, one event loop, from the settings to the ordered stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import structlog
import uvicorn

from importer import log
from importer.api.app import create_app
from importer.api.state import Service
from importer.server import connections
from importer.server.lifespan import open_service
from importer.settings import Settings
from importer.supervisor.ledger import LedgerReader
from loader.errors import LoaderError
from loader.version import versions

# What clients that are slow to take their answers get when the service stops. Those that wait for news are answered first.
_ANSWERS_SECONDS = 2
# Connections that the kernel keeps while the service is busy for a moment.
_BACKLOG = 1024

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class CannotStart(Exception):  # noqa: N818 - named as what happened
    """The machine does not have what the settings ask for: what it is, what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Defective(Exception):  # noqa: N818 - as above
    """A part of the service has failed unexpectedly; the log has its traceback. The next start goes on with all imports."""


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then stop in order; `announce` gets the URL once requests are taken.

    Raises CannotStart, StoreError, LoaderError, Defective.
    """
    log.configure(settings.log_format)
    connections.raise_file_limit()
    _make_folder(settings.data_folder)
    with _listen(settings.host, settings.port) as listener, contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(settings, listener, announce))


async def _serve(settings: Settings, listener: socket.socket, announce: Callable[[str], None]) -> None:
    starting = asyncio.current_task()
    if starting is not None:
        _on_signal(starting.cancel)
    async with open_service(settings) as service:
        server = _Server(service, (settings.host, *settings.server_names))
        _on_signal(server.stop)
        url = _url(listener)
        announce(url)
        telling = asyncio.create_task(_tell_versions(url, LedgerReader(service.database_url)))
        defects = asyncio.create_task(service.supervisor.defects.seen.wait())
        defects.add_done_callback(lambda _: server.stop())
        await server.serve([listener])
        server.hang_up()
        telling.cancel()
        defects.cancel()
    if service.supervisor.defects.seen.is_set():
        raise Defective


class _Server(uvicorn.Server):
    """Uvicorn, for one service, which is stopped only after its server."""

    def __init__(self, service: Service, names: Iterable[str]) -> None:
        self._service = service
        self._slow_requests = connections.SlowRequests()
        super().__init__(
            uvicorn.Config(
                create_app(service, names),
                http=connections.Connection,
                lifespan="off",  # the service is opened and closed around it
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=_ANSWERS_SECONDS,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone: uvicorn would raise them again when it is done, and so end the process too early."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done ten times a second; return whether to stop."""
        if counter % 10 == 0:
            self._slow_requests.hang_up(self.server_state.connections)
        return await super().on_tick(counter)

    def stop(self) -> None:
        """Answer those who wait, take no more requests, and have `serve` return."""
        self._service.closing.set()
        self.should_exit = True

    def hang_up(self) -> None:
        """End the connections that are left: those that came while `serve` ended those it knew. No store is behind them."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _on_signal(action: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has SIGHUP ignored
            asyncio.get_running_loop().add_signal_handler(number, action)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(
            f"The data folder {folder} can't be used: {error.strerror}.",
            "Choose another one with --data-dir or IMPORTER_DATA_DIR.",
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        is_dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # so that :: is all addresses
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual)
        connections.configure(listener)
        return listener
    except UnicodeError as error:  # what IDNA has no form for: an empty label, or one that is too long
        raise CannotStart(
            f"The service can't listen at {host}: that is no address, and no name that one can have.",
            "Choose another address with --host or IMPORTER_HOST.",
        ) from error
    except OSError as error:
        raise CannotStart(
            f"The service can't listen at {host}, port {port}: {error.strerror}.",
            "Stop what runs there, or choose another address with --host and --port.",
        ) from error


def _url(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _tell_versions(url: str, ledger: LedgerReader) -> None:
    """Log what the service runs on: the first thing that is asked when something is odd."""
    _log.info(
        "service started",
        url=url,
        postgresql=await _postgresql_version(ledger),
        **versions(),
    )


async def _postgresql_version(ledger: LedgerReader) -> str:
    try:
        return await ledger.server_version()
    except LoaderError as error:
        return f"unknown: {error.failure.message}"
