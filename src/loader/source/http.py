"""A file behind an http or https address: by ranges side by side where the server can, else as one stream.

Ranges need a server that announces size and validator: every later answer is held to them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.client import HttpClient, Response
from loader.http.connection import Dialer
from loader.http.response import check_coding, protocol_error, unsatisfied_total
from loader.http.retry import RetryBudget, TransientError
from loader.http.url import HttpAddress
from loader.limits import SEQUENTIAL, Limits, Parallelism
from loader.source.base import TAIL_BYTES, RawInfo, digest_of
from loader.source.http_identity import HttpFile, validator_of
from loader.source.http_ranges import HttpRanges, checked_range, receive_range
from loader.source.http_stream import HttpStream, open_stream

# At the last bytes, which only tell files apart: a person waits for the probe, and a silent server takes half a minute each.
_TAIL_ATTEMPTS = 2

Result = TypeVar("Result")


class HttpSource:
    """See RawSource."""

    def __init__(
        self,
        address: HttpAddress,
        dialer: Dialer,
        limits: Limits,
        closed: threading.Event,
    ) -> None:
        self._client = HttpClient(address, dialer, limits.retry_policy, closed)
        self._limits = limits
        self._retry_policy = limits.retry_policy
        self._closed = closed
        self._file = HttpFile(address.location)
        self._ranges: HttpRanges | None = None
        self._stream: HttpStream | None = None
        # of whoever reads the stream: a thread whose consumer has gone may still be in it
        self._turn = threading.Lock()

    @property
    def parallelism(self) -> Parallelism:
        """See RawSource: a server without ranges sends the file once, from its beginning."""
        return SEQUENTIAL if self._ranges is None else self._limits.http_connections

    @property
    def length_verified(self) -> bool:
        """See RawSource."""
        return self._stream is None or self._stream.is_delimited

    def probe(self) -> RawInfo:
        """Look at the first bytes, and where ranges are served at the last ones, by GET: a signed address refuses HEAD.

        Raises LoaderError and SourceClosed.
        """
        head, is_whole = self._retried(self._look_at_head, self._retry_policy.probe_attempts)
        tail = b""
        if self._ranges is not None and not is_whole:
            head, tail = self._ends(self._ranges, head)
        return RawInfo(
            location=self._file.location,
            size_bytes=self._file.size_bytes,
            validator=self._file.validator,
            resumable=self._file.validator is not None,
            readable_again=True,
            head=head,
            head_is_whole=is_whole or len(head) == self._file.size_bytes,
            digest=digest_of(head, tail),
        )

    def read_at(self, offset: int, view: memoryview) -> int:
        """Read a range, or go on with the stream. Raises LoaderError and SourceClosed."""
        if self._ranges is not None:
            self._ranges.read_at(offset, view)
            return len(view)
        with self._turn:
            return self._stream_at(offset).read_at(offset, view)

    def close(self) -> None:
        """Abort what is in flight. Never blocks."""
        self._client.close()
        if (stream := self._stream) is not None:
            stream.finish()  # aborted by now: nobody is still waiting in it

    def _stream_at(self, offset: int) -> HttpStream:
        stream = self._stream
        if stream is None or (offset < stream.position and self._file.validator is not None):
            if stream is not None:
                stream.finish()
            stream = self._retried(lambda: open_stream(self._client, self._file), self._retry_policy.attempts)
            self._stream, self._file = stream, stream.file
        return stream

    def _retried(self, attempt: Callable[[], Result], attempts: int) -> Result:
        budget = RetryBudget(self._retry_policy, attempts, self._closed)
        while True:
            try:
                return attempt()
            except TransientError as failure:
                budget.spend(failure)

    def _look_at_head(self) -> tuple[bytes, bool]:
        """Return the first bytes, and whether they are all; choose how the rest is read."""
        answer = self._client.get({"Range": f"bytes=0-{self._limits.head_bytes - 1}"})
        if answer.status == 416 and unsatisfied_total(answer.headers) != 0:
            answer.finish()  # a server may refuse ranges so (15.5.17): it is asked for the whole
            answer = self._client.get({})
        try:
            check_coding(answer.headers, self._file.location)
            match answer.status:
                case 206:
                    return self._look_at_range(answer)
                case 200:
                    return self._look_at_stream(answer)
                case 416 if unsatisfied_total(answer.headers) == 0:
                    self._find(answer, 0, b"")
                    return b"", True
                case status:
                    what = f"{status} is no answer to a request for its first bytes"
                    raise protocol_error(self._file.location, what)
        finally:
            if self._stream is None:
                answer.finish()

    def _look_at_range(self, answer: Response) -> tuple[bytes, bool]:
        span = checked_range(answer, 0, self._limits.head_bytes, None)
        head = bytearray(span.end)
        for _ in receive_range(answer, memoryview(head)):
            pass
        self._find(answer, span.total, bytes(head))
        if span.total is not None and self._file.validator is not None:
            self._ranges = HttpRanges(self._client, self._file, self._limits, self._closed)
        return bytes(head), span.end == span.total

    def _look_at_stream(self, answer: Response) -> tuple[bytes, bool]:
        self._find(answer, answer.announced_bytes, b"")
        stream = HttpStream(answer, self._file)
        head_bytes = self._limits.head_bytes
        head = stream.peek(head_bytes + 1)  # one more, to know whether that is all
        self._stream = stream
        self._find(answer, answer.announced_bytes, head[:head_bytes])
        return head[:head_bytes], len(head) <= head_bytes

    def _find(self, answer: Response, size_bytes: int | None, head: bytes) -> None:
        self._file = HttpFile(self._file.location, size_bytes, validator_of(answer.headers), head)

    def _ends(self, ranges: HttpRanges, head: bytes) -> tuple[bytes, bytes]:
        """Return all of the head, whatever the server has sent of it, and the last bytes behind it.

        No last bytes where the server fails to send them: the same request may succeed when their turn comes.
        """
        size_bytes = self._file.size_bytes or len(head)
        rest = bytearray(min(self._limits.head_bytes, size_bytes) - len(head))
        ranges.read_at(len(head), memoryview(rest), self._retry_policy.probe_attempts)
        tail = bytearray(min(TAIL_BYTES, size_bytes - len(head) - len(rest)))
        try:
            ranges.read_at(size_bytes - len(tail), memoryview(tail), _TAIL_ATTEMPTS)
        except LoaderError as error:
            if error.code is FailureCode.SOURCE_CHANGED:
                raise
            tail = b""
        return head + rest, bytes(tail)
