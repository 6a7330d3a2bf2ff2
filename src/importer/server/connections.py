"""Clients' connections: how many there may be, and how long one may take to send a request or to take an answer.

A connection is a file descriptor, of which the loaders and the databases need some, too. So clients that open many, or
that send and read next to nothing, must not be able to take them all.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterable

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# A connection with a request in hand takes up to some 200 kB.
MAX_CONNECTIONS = 2_000
# For pipes of 64 loaders, connections to both databases, and files that are open for a moment.
_RESERVED_FILES = 400
# A limit that an operator set this low is meant.
_MIN_CONNECTIONS = 50
# Head and body of a request are a few kilobytes, at most 80: a client that needs longer has nothing to ask.
REQUEST_SECONDS = 20
# A client that takes nothing of its answer for so long is gone, or wants to hold it for ever.
_ANSWER_MILLISECONDS = 60_000


def raise_file_limit() -> None:
    """Have room for all connections, as far as the system lets this user; 1,024 files are a usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections() -> int:
    """Return how many connections the limit on files leaves room for, at most MOST_CONNECTIONS."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(_MIN_CONNECTIONS, min(MAX_CONNECTIONS, files - _RESERVED_FILES))


def configure(listener: socket.socket) -> None:
    """Set what each connection inherits from the socket that it came by."""
    # Without it the body of an answer waits 40 ms for the ACK of its head: asyncio sets it itself only where the socket was
    # made with its protocol named.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Also counts while the peer's window is closed: https://man7.org/linux/man-pages/man7/tcp.7.html
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _ANSWER_MILLISECONDS)


class Connection(H11Protocol):
    """One connection. By h11, which also bounds a request's head: 16 KiB."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - the same in uvicorn, where it's ignored, too
        """Hang up at once if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.abort()


class SlowRequests:
    """Finds the connections that are too slow with a request, by looking at all of them once a second.

    Seconds are counted one by one: if the service itself was stopped, none of them is the clients'.
    """

    def __init__(self) -> None:
        self._waiting: dict[H11Protocol, tuple[RequestResponseCycle | None, int]] = {}

    def hang_up(self, connections: Iterable[object]) -> None:
        """Look once, and end those that have waited for REQUEST_SECONDS."""
        waiting: dict[H11Protocol, tuple[RequestResponseCycle | None, int]] = {}
        for each in connections:
            if not isinstance(each, H11Protocol):
                continue
            cycle = _cycle(each)
            if cycle is not None and not cycle.more_body and not cycle.response_complete:
                continue  # it is our turn
            before, seconds = self._waiting.get(each, (cycle, 0))
            waiting[each] = (cycle, seconds + 1 if before is cycle else 1)
            if waiting[each][1] > REQUEST_SECONDS:
                each.transport.abort()
        self._waiting = waiting


def _cycle(connection: H11Protocol) -> RequestResponseCycle | None:
    """Return the last request whose head is there; None, which uvicorn's annotation leaves out, is before the first."""
    return connection.cycle
