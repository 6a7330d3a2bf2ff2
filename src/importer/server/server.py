"""The service as a process: one socket, one event loop, signals, and an orderly stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Generator
from ipaddress import ip_address
from pathlib import Path

import msgspec
import structlog
import uvicorn
from litestar.types import ASGIApp

from importer import log
from importer.api.app import create_app
from importer.api.state import Service
from importer.server import client_connections
from importer.server.lifespan import open_service
from importer.settings import Settings
from importer.supervisor.ledger import LedgerReader
from importer.token import InvalidToken, read_token
from loader.embedded.database_text import database_text
from loader.errors import LoaderError
from loader.postgres.database_url import place_of
from loader.version import versions

# At a stop, the time for clients to read their responses. Long polls and event streams are answered before it.
_RESPONSE_SECONDS = 2
# Connections that the kernel queues while the service is busy.
_BACKLOG = 1024

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class CannotStart(Exception):
    """The service can't use its host, port or data folder: what happened, what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnhandledErrorStop(Exception):
    """The service stopped because one of its tasks failed unexpectedly; the log has the traceback. A restart resumes all."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where and how clients reach the service."""

    url: str  # on this machine, with the root path and without a slash at its end
    port: int
    is_reachable: bool  # from other machines
    token_file: Path | None


def serve(settings: Settings, announce: Callable[[Endpoint], None]) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then stop in order. `announce` is called when the service is open.

    Raises CannotStart, StoreError, LoaderError, UnhandledErrorStop.
    """
    log.configure(settings.log_format)
    client_connections.raise_file_limit()
    _make_folder(settings.data_folder)
    token = _token(settings.token_file)
    with _listen(settings.host, settings.port) as listener, contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(settings, token, listener, announce))


async def _serve(
    settings: Settings, token: str | None, listener: socket.socket, announce: Callable[[Endpoint], None]
) -> None:
    starting = asyncio.current_task()
    if starting is not None:
        _on_signal(starting.cancel)
    async with open_service(settings) as service:
        app = create_app(
            service,
            names=(settings.host, *settings.server_names),
            root_path=settings.root_path,
            token=token,
        )
        server = _Server(app, service)
        _on_signal(server.stop)
        endpoint = _endpoint(settings, listener)
        announce(endpoint)
        logging_versions = asyncio.create_task(
            _log_versions(endpoint.url, LedgerReader(service.database_url), service.database_url)
        )
        unhandled_error = asyncio.create_task(service.supervisor.unhandled_errors.seen.wait())
        unhandled_error.add_done_callback(lambda _: server.stop())
        await server.serve([listener])
        server.close_remaining()
        logging_versions.cancel()
        unhandled_error.cancel()
    if service.supervisor.unhandled_errors.seen.is_set():
        raise UnhandledErrorStop


class _Server(uvicorn.Server):
    """Uvicorn for one service. The service is closed after its server has stopped."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._service = service
        self._slow_requests = client_connections.SlowRequests()
        super().__init__(
            uvicorn.Config(
                app,
                http=client_connections.ClientConnection,
                lifespan="off",  # _serve opens and closes the service
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=_RESPONSE_SECONDS,
                timeout_keep_alive=client_connections.IDLE_SECONDS,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install no handlers: uvicorn raises its signals again when it has stopped, before loaders are suspended."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Close slow requests once a second; uvicorn calls this ten times a second. Return whether to stop."""
        if counter % 10 == 0:
            self._slow_requests.close_slow(self.server_state.connections)
        return await super().on_tick(counter)

    def stop(self) -> None:
        """Answer long polls, end event streams, accept no more requests, and let `serve` return."""
        self._service.closing.set()
        self.should_exit = True

    def close_remaining(self) -> None:
        """Close connections that were accepted while `serve` stopped, before the store closes."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _on_signal(action: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
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
        # :: means all IPv4 addresses, too
        is_dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual)
        client_connections.configure(listener)
        return listener
    except UnicodeError as error:  # IDNA can't encode an empty label, or one that is too long
        raise CannotStart(
            f"The service can't listen at {host}: this is neither an IP address nor a valid host name.",
            "Choose another address with --host or IMPORTER_HOST.",
        ) from error
    except OSError as error:
        raise CannotStart(
            f"The service can't listen at {host}, port {port}: {error.strerror}.",
            "Stop the program that uses the port, or choose another address with --host and --port.",
        ) from error


def _token(path: Path | None) -> str | None:
    try:
        return None if path is None else read_token(path)
    except InvalidToken as error:
        raise CannotStart(
            str(error),
            "Write a token into it, such as `openssl rand -hex 32` prints, or unset IMPORTER_TOKEN_FILE.",
        ) from error


def _endpoint(settings: Settings, listener: socket.socket) -> Endpoint:
    bound, port, *_ = listener.getsockname()
    address = ip_address(bound.partition("%")[0])
    host = "127.0.0.1" if address.is_unspecified else f"[{bound}]" if ":" in bound else bound
    return Endpoint(
        url=f"http://{host}:{port}{settings.root_path}",
        port=port,
        is_reachable=not address.is_loopback,
        token_file=settings.token_file,
    )


async def _log_versions(url: str, ledger: LedgerReader, database_url: str) -> None:
    """Log which database the service uses, and the versions of all it uses, which a bug report needs."""
    postgresql, database = await _version_and_database(ledger, database_url)
    _log.info(
        "service started",
        url=url,
        database=database,
        postgresql=postgresql,
        **versions(),
    )


async def _version_and_database(ledger: LedgerReader, database_url: str) -> tuple[str, str]:
    try:
        return await ledger.version_and_database()
    except LoaderError as error:
        return f"unknown: {error.failure.message}", database_text(*place_of(database_url))
