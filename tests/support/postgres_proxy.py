"""What stands between a loader and its database, and can lose an answer, one side, or both ways to it."""

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
    """Passes on, within `with`, what comes to `url` to a database behind a Unix socket."""

    def __init__(self, database_url: str) -> None:
        address = conninfo_to_dict(database_url)
        self._socket_path = f"{address['host']}/.s.PGSQL.{address['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        origin = f"postgres@127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlsplit(database_url)._replace(netloc=origin, query="").geturl()
        self.is_mute = False  # the database's answers are lost
        self.is_deaf = False  # what loaders say is lost, also of those who come
        self.lets_in = False  # deaf, it still lets those who come log in
        self.parting_words = b""  # what they hear, in place of nothing, when they go on; then it hangs up
        self.turns_away = False  # who comes is hung up on
        self.loses_an_answer = False  # the next one, and then no more
        self._sockets: list[socket.socket] = []
        self._lost: set[socket.socket] = set()
        self._logged_in: set[socket.socket] = set()
        self._let_in: set[socket.socket] = set()  # of these, those that came while it was deaf
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
        self.is_mute = self.is_deaf = self.turns_away = False

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
                client = self._listener.accept()[0]
                if self.turns_away:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                server.connect(self._socket_path)
                for source, target in ((client, server), (server, client)):
                    thread = threading.Thread(target=self._pass_on, args=(source, target, source is server))
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer:
                    self._note_log_in(target, data)
                    if not self._loses_answer():
                        target.sendall(data)
                elif not self.is_deaf or (self.lets_in and source not in self._logged_in):
                    target.sendall(data)
                elif self.parting_words and source in self._let_in:
                    source.sendall(self.parting_words)
                    break
            if source not in self._lost:
                target.shutdown(socket.SHUT_RDWR)

    def _note_log_in(self, client: socket.socket, answer: bytes) -> None:
        if client not in self._logged_in and answer.endswith(_READY):
            self._logged_in.add(client)
            if self.is_deaf:
                self._let_in.add(client)

    def _loses_answer(self) -> bool:
        loses_one, self.loses_an_answer = self.loses_an_answer, False
        return loses_one or self.is_mute
