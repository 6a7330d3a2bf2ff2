"""A file behind an http or https address: by ranges side by side where the server can, else as one stream.

Ranges need a server that announces size and validator: every later answer is held to them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from loader.http_address import HttpAddress
from loader.http_answer import announced_size, check_coding, protocol_error, unsatisfied_total
from loader.http_client import Answer, HttpClient
from loader.http_connection import Dialer
from loader.http_file import HttpFile, validator_of
from loader.http_ranges import HttpRanges, checked_range, receive_range
from loader.http_stream import HttpStream, open_stream
from loader.raw_source import HEAD_BYTES, RawInfo
from loader.retry import AttemptFailed, Patience, RetryBudget

Result = TypeVar("Result")


class HttpSource:
    """See RawSource."""

    def __init__(
        self,
        address: HttpAddress,
        dialer: Dialer,
        connections: int,
        patience: Patience,
        closed: threading.Event,
    ) -> None:
        self._client = HttpClient(address, dialer, patience, closed)
        self._connections = connections
        self._patience = patience
        self._closed = closed
        self._file = HttpFile(address.location, None, None)
        self._ranges: HttpRanges | None = None
        self._stream: HttpStream | None = None
        # of whoever reads the stream: a thread whose consumer has gone may still be in it
        self._turn = threading.Lock()

    @property
    def reader_count(self) -> int:
        """As many as connections were asked for, if the server can do ranges."""
        return 1 if self._ranges is None else self._connections

    @property
    def length_verified(self) -> bool:
        """See RawSource."""
        return self._stream is None or self._stream.is_delimited

    def probe(self) -> RawInfo:
        """Look at the first bytes, with one GET: a signed address refuses HEAD. Raises LoaderError and SourceClosed."""
        return self._retried(self._probe_once, self._patience.probe_attempts)

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
            stream = self._retried(lambda: open_stream(self._client, self._file), self._patience.attempts)
            self._stream = stream
        return stream

    def _retried(self, attempt: Callable[[], Result], attempts: int) -> Result:
        budget = RetryBudget(self._patience, attempts, self._closed)
        while True:
            try:
                return attempt()
            except AttemptFailed as failure:
                budget.spend(failure)

    def _probe_once(self) -> RawInfo:
        answer = self._client.get({"Range": f"bytes=0-{HEAD_BYTES - 1}"})
        try:
            check_coding(answer.headers, self._file.location)
            match answer.status:
                case 206:
                    return self._look_at_range(answer)
                case 200:
                    return self._look_at_stream(answer)
                case 416 if unsatisfied_total(answer.headers) == 0:
                    return self._info(answer, 0, b"", is_whole=True)
                case status:
                    what = f"{status} is no answer to a request for its first bytes"
                    raise protocol_error(self._file.location, what)
        finally:
            if self._stream is None:
                answer.finish()

    def _look_at_range(self, answer: Answer) -> RawInfo:
        span = checked_range(answer, 0, HEAD_BYTES, None)
        head = bytearray(span.end)
        for _ in receive_range(answer, memoryview(head)):
            pass
        info = self._info(answer, span.total, bytes(head), is_whole=span.end == span.total)
        if info.size_bytes is not None and info.validator is not None:
            self._ranges = HttpRanges(self._client, self._file, self._patience, self._closed)
        return info

    def _look_at_stream(self, answer: Answer) -> RawInfo:
        size_bytes = announced_size(answer.unread_bytes, self._file.location)
        stream = HttpStream(answer, HttpFile(self._file.location, size_bytes, None))
        head = stream.peek(HEAD_BYTES + 1)  # one more, to know whether that is all
        self._stream = stream
        return self._info(answer, size_bytes, head[:HEAD_BYTES], is_whole=len(head) <= HEAD_BYTES)

    def _info(self, answer: Answer, size_bytes: int | None, head: bytes, *, is_whole: bool) -> RawInfo:
        self._file = HttpFile(self._file.location, size_bytes, validator_of(answer.headers))
        return RawInfo(
            location=self._file.location,
            size_bytes=size_bytes,
            validator=self._file.validator,
            resumable=self._file.validator is not None,
            readable_again=True,
            head=head,
            head_is_whole=is_whole,
        )
