"""A pooler in transaction mode: after each transaction, the client's session is free for other clients."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict

# https://www.postgresql.org/docs/current/protocol-message-formats.html
_STARTUP = 196608
_REFUSED_ENCRYPTION = b"N"
_READY = b"Z\0\0\0\5I"


class TransactionPooler:
    """Pools connections to a database behind a Unix socket with trust authentication, while the context lasts."""

    def __init__(self, database_url: str) -> None:
        address = conninfo_to_dict(database_url)
        self._socket_path = f"{address['host']}/.s.PGSQL.{address['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        origin = f"postgres@127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlsplit(database_url)._replace(netloc=origin, query="").geturl()
        self._idle: list[socket.socket] = []
        self._sockets: list[socket.socket] = [self._listener]
        self._greeting = b""  # the server's messages after a login
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> TransactionPooler:
        self._threads[0].start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._sockets.append(client)
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            startup = _read_startup(client)
            if not self._greeting:
                self._idle.append(self._new_session(startup))
            client.sendall(self._greeting)
            for kind, message in _messages(client):
                session = self._idle.pop() if self._idle else self._new_session(startup)
                while kind != b"X":
                    session.sendall(message)
                    # a simple query, or the end of an extended one: the server responds next
                    if kind in (b"Q", b"S") and self._forward_response(session, client):
                        break
                    kind, message = next(_messages(client))
                self._idle.append(session)

    def _forward_response(self, session: socket.socket, client: socket.socket) -> bool:
        """Forward the server's messages until it is ready; return whether the transaction has ended."""
        for kind, message in _messages(session):
            client.sendall(message)
            if kind == b"Z":
                return message == _READY
        raise EOFError

    def _new_session(self, startup: bytes) -> socket.socket:
        session = socket.socket(socket.AF_UNIX)
        self._sockets.append(session)
        session.connect(self._socket_path)
        session.sendall(startup)
        greeting = b""
        for kind, message in _messages(session):
            # a process id and a key of no server
            greeting += b"K" + struct.pack("!iii", 12, 1, 1) if kind == b"K" else message
            if kind == b"Z":
                break
        self._greeting = greeting
        return session


def _read_startup(client: socket.socket) -> bytes:
    while True:
        head = _read(client, 8)
        length, code = struct.unpack("!ii", head)
        message = head + _read(client, length - 8)
        if code == _STARTUP:
            return message
        client.sendall(_REFUSED_ENCRYPTION)


def _messages(connection: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    while True:
        head = _read(connection, 5)
        yield head[:1], head + _read(connection, struct.unpack("!i", head[1:])[0] - 4)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
