"""The connections of HTTP clients: their number, and the time limits for sending a request and reading a response.

A connection is a file descriptor; loaders and databases need some, too. Without limits, clients that open many
connections and send or read almost nothing would use them all.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterable

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# A connection with a running request takes up to 200 kB of memory.
MAX_CONNECTIONS = 2_000
# For the pipes of 64 loaders, connections to both databases, and files that are open for a moment.
_RESERVED_FILES = 400
# Kept even where the limit on files is lower than the reserve.
_MIN_CONNECTIONS = 50
# A request is a few kilobytes, at most 80: every useful client sends it faster.
REQUEST_SECONDS = 20
# Proxies that reuse connections keep them for up to 60 seconds (nginx, AWS). If the service closed one first, a request that
# is on its way would be lost: https://nginx.org/en/docs/http/ngx_http_upstream_module.html#keepalive_timeout
IDLE_SECONDS = 75
# A client that reads nothing of its response for this long is dead or hostile.
_RESPONSE_MILLISECONDS = 60_000


def raise_file_limit() -> None:
    """Raise the limit on open files, often 1,024, as far as this needs and the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def max_connections() -> int:
    """Return the number of connections that the limit on open files allows, at most MAX_CONNECTIONS."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(_MIN_CONNECTIONS, min(MAX_CONNECTIONS, files - _RESERVED_FILES))


def configure(listener: socket.socket) -> None:
    """Set the options that each accepted connection inherits."""
    # Without it the body of a response waits 40 ms for the ACK of its head. asyncio sets it only on sockets whose protocol
    # was named at creation.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Also applies while the peer's window is closed: https://man7.org/linux/man-pages/man7/tcp.7.html
    user_timeout: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
    if user_timeout is not None:  # macOS lacks it: see docs/decisions.md
        listener.setsockopt(socket.IPPROTO_TCP, user_timeout, _RESPONSE_MILLISECONDS)


class ClientConnection(H11Protocol):
    """One connection. h11 limits the head of a request to 16 KiB."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - uvicorn ignores the same
        """If there are too many connections, close one that waits for its next request, else this one."""
        super().connection_made(transport)
        if len(self.connections) > max_connections():
            idle = next(
                (each for each in self.connections if isinstance(each, H11Protocol) and _is_idle(each)), self
            )
            idle.transport.abort()


class SlowRequests:
    """Closes connections whose request takes too long. It counts calls, one a second, and not the clock's seconds.

    So the time in which the service itself was stopped, such as by SIGSTOP, does not count.
    """

    def __init__(self) -> None:
        self._waiting: dict[H11Protocol, tuple[RequestResponseCycle | None, int]] = {}

    def close_slow(self, connections: Iterable[object]) -> None:
        """Count a second for each connection without a whole request, and close those at REQUEST_SECONDS."""
        waiting: dict[H11Protocol, tuple[RequestResponseCycle | None, int]] = {}
        for each in connections:
            if not isinstance(each, H11Protocol):
                continue
            if _is_idle(each):
                continue  # uvicorn closes it after IDLE_SECONDS
            cycle = _cycle(each)
            if cycle is not None and not cycle.more_body and not cycle.response_complete:
                continue  # the request is whole, the response is not: the service works on it
            before, seconds = self._waiting.get(each, (cycle, 0))
            waiting[each] = (cycle, seconds + 1 if before is cycle else 1)
            if waiting[each][1] > REQUEST_SECONDS:
                each.transport.abort()
        self._waiting = waiting


def _is_idle(connection: H11Protocol) -> bool:
    """Whether uvicorn's timer runs, which begins with the end of a response, and nothing of a next request has come."""
    return connection.timeout_keep_alive_task is not None and not connection.conn.trailing_data[0]


def _cycle(connection: H11Protocol) -> RequestResponseCycle | None:
    """Return the last request whose head is complete; None, which uvicorn's annotation lacks: there was none."""
    return connection.cycle
