"""Sends the bytes of a COPY, and hears the server when it speaks before their end."""

from __future__ import annotations

import select

from psycopg import Cursor
from psycopg.abc import Buffer
from psycopg.copy import LibpqWriter


class AttentiveWriter(LibpqWriter):
    """Waits for the server as psycopg's own writer does, but for what it says, too.

    All that a server says during a COPY from us is that it failed: the disk is full, the session ends. Then it swallows what
    else is sent, and libpq tells of it at the end. https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
    libpq reads from the socket, and keeps what it has read to itself, when it can't write. So we never let it come to that.
    """

    def __init__(self, cursor: Cursor[tuple[object, ...]]) -> None:
        super().__init__(cursor)
        self._libpq = cursor.connection.pgconn
        self._poll = select.poll()
        self._poll.register(self._libpq.socket, select.POLLIN | select.POLLOUT)
        self.has_answer = False  # to be looked at by ending the COPY; it may turn out to be nothing

    def write(self, data: Buffer) -> None:
        """Send the data, whether the server has said something or not."""
        self._wait()
        while self._libpq.put_copy_data(data) == 0:
            self._wait()
        while self._libpq.flush() != 0:
            self._wait()

    def _wait(self) -> None:
        for _, events in self._poll.poll():
            if events != select.POLLOUT and not self.has_answer:
                self.has_answer = True
                self._poll.modify(self._libpq.socket, select.POLLOUT)
