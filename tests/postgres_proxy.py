"""What stands between a loader and its database, and can lose an answer, one side, or both ways to it."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict


class Proxy:
    """Passes on, within `with`, what comes to `url` to a database behind a Unix socket."""

    def __init__(self, database_url: str) -> None:
        address = conninfo_to_dict(database_url)
        self._socket_path = f"{address['host']}/.s.PGSQL.{address['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        origin = f"postgres@127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlsplit(database_url)._replace(netloc=origin, query="").geturl()
        self.is_mute = False  # the database's answers are lost
        self.is_deaf = False  # what loaders say is lost, also of those who come
        self.loses_an_answer = False  # the next one, and then no more
        self._sockets: list[socket.socket] = []
        self._lost: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def hang_up(self) -> None:
        """End all connections; those that come later are served well."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.is_mute = self.is_deaf = False

    def lose_loaders(self) -> None:
        """End the connections on the loaders' side; the database is not told. Those that come later are served well."""
        self._lost |= set(self._sockets)
        for each in self._sockets:
            if each.family == socket.AF_INET:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                server.connect(self._socket_path)
                for source, target in ((client, server), (server, client)):
                    thread = threading.Thread(target=self._pass_on, args=(source, target, source is server))
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not (self._loses_answer() if is_answer else self.is_deaf):
                    target.sendall(data)
            if source not in self._lost:
                target.shutdown(socket.SHUT_RDWR)

    def _loses_answer(self) -> bool:
        loses_one, self.loses_an_answer = self.loses_an_answer, False
        return loses_one or self.is_mute
