"""A file as one answer, read from its beginning to its end.

It is not retried once its bytes have begun to flow: a server without ranges would have to send all of them again.
"""

from __future__ import annotations

import msgspec

from loader.errors import LoaderError
from loader.http.client import HttpClient, Response
from loader.http.response import cut_off, protocol_error
from loader.http.retry import TransientError
from loader.source.forward_reader import ForwardReader
from loader.source.http_identity import HttpFile
from loader.source.http_ranges import STEP_BYTES


class HttpStream:
    """One answer's body, by offsets that go forward."""

    def __init__(self, answer: Response, file: HttpFile) -> None:
        """`file`: with its size, if an earlier response has announced it."""
        self._answer = answer
        if file.size_bytes is None:
            file = msgspec.structs.replace(file, size_bytes=answer.announced_bytes)
        self.file = file  # with the size that this response has announced
        self._reader = ForwardReader(self._readinto, file.location)
        self._received_bytes = 0
        # its end is announced or marked, rather than being where the connection ends
        self.is_delimited = answer.is_chunked or file.size_bytes is not None

    @property
    def position(self) -> int:
        """The lowest offset that can still be read."""
        return self._reader.position

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes without passing them; fewer at the end. Raises AttemptFailed."""
        return self._reader.peek(count)

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill `view` from `offset` on; return how many bytes: fewer only at the end. Raises LoaderError."""
        try:
            count = self._reader.read_at(offset, view)
            if self._reader.position == self.file.size_bytes:
                self._reader.peek(1)  # that it is the end is seen by looking behind it
            return count
        except TransientError as failure:
            raise failure.error from failure

    def finish(self) -> None:
        """Close the answer."""
        self._answer.finish()

    def _readinto(self, view: memoryview) -> int:
        count = self._answer.receive(view[:STEP_BYTES])
        self._received_bytes += count
        if self.file.size_bytes is None:
            return count
        missing = self.file.size_bytes - self._received_bytes
        if missing < 0:
            raise self.file.changed(f"it had {self.file.size_bytes:,} bytes, and now it has more")
        if count == 0 and missing > 0:
            raise cut_off(self.file.location, missing)
        return count


def open_stream(client: HttpClient, file: HttpFile) -> HttpStream:
    """Ask for the whole file, once. Raises LoaderError and AttemptFailed."""
    answer = client.get(file.precondition())
    try:
        file.check_answer(answer)
        if answer.status != 200:
            raise protocol_error(file.location, f"{answer.status} is no answer to a request for all of it")
        file.check_size(answer.announced_bytes)
        stream = HttpStream(answer, file)
        head = stream.peek(len(file.head))
        if len(head) < len(file.head) and file.head.startswith(head):
            raise cut_off(file.location, len(file.head) - len(head))
        if head != file.head:
            raise file.changed("its first bytes are others")
    except (TransientError, LoaderError):
        answer.finish()
        raise
    return stream
