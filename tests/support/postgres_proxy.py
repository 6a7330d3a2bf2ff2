"""A TCP proxy between a loader and its database that can lose responses, requests, or one side of a connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict

# https://www.postgresql.org/docs/current/protocol-message-formats.html
_READY = b"Z\0\0\0\5I"


class Proxy:
    """Forwards connections to `url` to a database behind a Unix socket, while the context lasts."""

    def __init__(self, database_url: str) -> None:
        address = conninfo_to_dict(database_url)
        self._socket_path = f"{address['host']}/.s.PGSQL.{address['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        origin = f"postgres@127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlsplit(database_url)._replace(netloc=origin, query="").geturl()
        self.loses_responses = False
        self.loses_requests = False  # also those of new connections
        self.accepts_logins = False  # while it loses requests, new connections can still log in
        self.farewell = b""  # what it sends to these for their next request, before it closes them
        self.refuses_connections = False
        self.loses_one_response = False  # the next one
        self._sockets: list[socket.socket] = []
        self._lost: set[socket.socket] = set()
        self._logged_in: set[socket.socket] = set()
        self._logged_in_late: set[socket.socket] = set()  # while it lost requests
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.close_connections()
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def close_connections(self) -> None:
        """Close all connections; later ones are forwarded without loss."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.loses_responses = self.loses_requests = self.refuses_connections = False

    def close_loader_sides(self) -> None:
        """Close the connections on the loaders' side only; later ones are forwarded without loss."""
        self._lost |= set(self._sockets)
        for each in self._sockets:
            if each.family == socket.AF_INET:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                if self.refuses_connections:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                server.connect(self._socket_path)
                for source, target in ((client, server), (server, client)):
                    thread = threading.Thread(target=self._forward, args=(source, target, source is server))
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, source: socket.socket, target: socket.socket, is_response: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_response:
                    self._note_login(target, data)
                    if not self._loses_response():
                        target.sendall(data)
                elif not self.loses_requests or (self.accepts_logins and source not in self._logged_in):
                    target.sendall(data)
                elif self.farewell and source in self._logged_in_late:
                    source.sendall(self.farewell)
                    break
            if source not in self._lost:
                target.shutdown(socket.SHUT_RDWR)

    def _note_login(self, client: socket.socket, response: bytes) -> None:
        if client not in self._logged_in and response.endswith(_READY):
            self._logged_in.add(client)
            if self.loses_requests:
                self._logged_in_late.add(client)

    def _loses_response(self) -> bool:
        loses_one, self.loses_one_response = self.loses_one_response, False
        return loses_one or self.loses_responses
