"""A file as one response, read from its beginning to its end.

It is not retried once bytes have been read: a server without ranges would have to send all of them again.
"""

from __future__ import annotations

import msgspec

from loader.errors import LoaderError
from loader.http.client import HttpClient, Response
from loader.http.response import protocol_error, truncated_body
from loader.http.retry import TransientError
from loader.source.forward_reader import ForwardReader
from loader.source.http_identity import FileIdentity
from loader.source.http_ranges import STEP_BYTES


class HttpStream:
    """One response's body, by offsets that only increase."""

    def __init__(self, response: Response, identity: FileIdentity) -> None:
        """`identity`: with the file's size, if an earlier response has announced it."""
        self._response = response
        if identity.size_bytes is None:
            identity = msgspec.structs.replace(identity, size_bytes=response.announced_bytes)
        self.identity = identity  # with the size that this response has announced
        self._reader = ForwardReader(self._readinto, identity.location)
        self._received_bytes = 0
        # whether the body's end is announced or marked; otherwise it is where the connection ends
        self.is_delimited = response.is_chunked or identity.size_bytes is not None

    @property
    def position(self) -> int:
        """The lowest offset that can still be read."""
        return self._reader.position

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes without consuming them; fewer at the end. Raises TransientError."""
        return self._reader.peek(count)

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill `view` from `offset` on; return how many bytes: fewer only at the end. Raises LoaderError."""
        try:
            count = self._reader.read_at(offset, view)
            if self._reader.position == self.identity.size_bytes:
                self._reader.peek(1)  # raises if the body continues
            return count
        except TransientError as failure:
            raise failure.error from failure

    def finish(self) -> None:
        """Close the response."""
        self._response.finish()

    def _readinto(self, view: memoryview) -> int:
        count = self._response.receive(view[:STEP_BYTES])
        self._received_bytes += count
        size_bytes = self.identity.size_bytes
        if size_bytes is None:
            return count
        missing_bytes = size_bytes - self._received_bytes
        if missing_bytes < 0:
            raise self.identity.changed(f"it had {size_bytes:,} bytes and now has more")
        if count == 0 and missing_bytes > 0:
            raise truncated_body(self.identity.location, missing_bytes)
        return count


def open_stream(client: HttpClient, identity: FileIdentity) -> HttpStream:
    """Request the whole file, once. Raises LoaderError and TransientError."""
    response = identity.request(client, {})
    try:
        identity.check_response(response)
        if response.status != 200:
            raise protocol_error(identity.location, f"{response.status} for a request without a range")
        identity.check_size(response.announced_bytes)
        stream = HttpStream(response, identity)
        head = stream.peek(len(identity.head))
        if len(head) < len(identity.head) and identity.head.startswith(head):
            raise truncated_body(identity.location, len(identity.head) - len(head))
        if head != identity.head:
            raise identity.changed("its first bytes differ")
    except (TransientError, LoaderError):
        response.finish()
        raise
    return stream
