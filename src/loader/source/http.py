"""A file behind an http or https URL: by parallel ranges if the server supports them, else as one stream.

Ranges need a server that announces size and validator. Each later response must have the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.client import HttpClient, Response
from loader.http.connection import Dialer
from loader.http.response import check_encoding, protocol_error, unsatisfied_total
from loader.http.retry import RetryBudget, TransientError
from loader.http.url import HttpUrl
from loader.limits import SEQUENTIAL, Limits, Parallelism
from loader.source.base import TAIL_BYTES, RawInfo, digest_of
from loader.source.http_identity import FileIdentity, NodesDisagree, strong_date, strong_etag
from loader.source.http_ranges import HttpRanges, checked_range, receive_range
from loader.source.http_stream import HttpStream, open_stream
from loader.text import warn

# Servers refuse a range with 416 (15.5.17 of RFC 9110), those that know none with 400, 405 or 501, firewalls with 403 or
# 406. The whole file is then requested, once, and the response to that counts. 416 and 206 may also be of an empty file.
_RANGE_REFUSALS = frozenset({400, 403, 405, 406, 416, 501})
# For the last bytes, which only distinguish files: a person waits for the probe, and a silent server takes half a minute
# for each attempt.
_TAIL_ATTEMPTS = 2

Result = TypeVar("Result")


class HttpSource:
    """See RawSource."""

    def __init__(
        self,
        url: HttpUrl,
        dialer: Dialer,
        limits: Limits,
        closed: threading.Event,
        *,
        ignore_etag: bool = False,
    ) -> None:
        self._client = HttpClient(url, dialer, limits.retry_policy, closed)
        self._limits = limits
        self._retry_policy = limits.retry_policy
        self._closed = closed
        self._ignore_etag = ignore_etag
        self._identity = FileIdentity(url.location)
        self._ranges: HttpRanges | None = None
        self._stream: HttpStream | None = None
        # held while the stream is read: a thread whose consumer has left may still be in it
        self._stream_lock = threading.Lock()

    @property
    def parallelism(self) -> Parallelism:
        """See RawSource: a server without ranges sends the file once, from its beginning."""
        return SEQUENTIAL if self._ranges is None else self._limits.http_connections

    @property
    def length_verified(self) -> bool:
        """See RawSource."""
        return self._stream is None or self._stream.is_delimited

    def probe(self) -> RawInfo:
        """Read the first bytes, and with ranges also the last ones, by GET: signed URLs refuse HEAD.

        Raises LoaderError and SourceClosed.
        """
        head, is_whole = self._retried(self._probe_head, self._retry_policy.probe_attempts)
        tail = b""
        if self._ranges is not None and not is_whole:
            head, tail = self._read_ends(self._ranges, head)
        identity = self._identity
        return RawInfo(
            location=identity.location,
            size_bytes=identity.size_bytes,
            validator=identity.validator,
            resumable=identity.validator is not None,
            readable_again=True,
            head=head,
            head_is_whole=is_whole or len(head) == identity.size_bytes,
            digest=digest_of(head, tail),
        )

    def read_at(self, offset: int, view: memoryview) -> int:
        """Read a range, or the next bytes of the stream. Raises LoaderError and SourceClosed."""
        if self._ranges is not None:
            self._ranges.read_at(offset, view)
            return len(view)
        with self._stream_lock:
            return self._stream_at(offset).read_at(offset, view)

    def close(self) -> None:
        """Abort what is in flight. Never blocks."""
        self._client.close()
        if (stream := self._stream) is not None:
            stream.finish()  # its connection is aborted, so nothing waits in it

    def _stream_at(self, offset: int) -> HttpStream:
        stream = self._stream
        if stream is None or (offset < stream.position and self._identity.validator is not None):
            if stream is not None:
                stream.finish()
            stream = self._retried(
                lambda: open_stream(self._client, self._identity), self._retry_policy.attempts
            )
            self._stream, self._identity = stream, stream.identity
        return stream

    def _retried(self, attempt: Callable[[], Result], attempts: int) -> Result:
        budget = RetryBudget(self._retry_policy, attempts, self._closed)
        has_warned = False
        while True:
            try:
                return attempt()
            except TransientError as failure:
                if failure.requests_wait and not has_warned:
                    minutes = self._retry_policy.max_requested_wait_seconds / 60
                    warn(f"{failure.error}; waiting for up to {minutes:.0f} minutes")
                    has_warned = True
                budget.spend(failure)

    def _probe_head(self) -> tuple[bytes, bool]:
        """Return the first bytes, and whether they are all; choose between ranges and a stream."""
        range_header = {"Range": f"bytes=0-{self._limits.head_bytes - 1}"}
        response = self._client.get(range_header, _RANGE_REFUSALS)
        if _refuses_ranges(response):
            response.finish()
            response = self._client.get({})
        try:
            check_encoding(response.headers, self._identity.location)
            match response.status:
                case 206:
                    return self._probe_range(response)
                case 200:
                    return self._probe_stream(response)
                case 204:
                    return b"", True
                case 416 if unsatisfied_total(response.headers) == 0:
                    return b"", True
                case status:
                    what = f"{status} for a request of its first bytes"
                    raise protocol_error(self._identity.location, what)
        finally:
            if self._stream is None:
                response.finish()

    def _probe_range(self, response: Response) -> tuple[bytes, bool]:
        span = checked_range(response, 0, self._limits.head_bytes, None)
        head = bytearray(span.end)
        for _ in receive_range(response, memoryview(head)):
            pass
        self._identify(response, span.total, bytes(head))
        if span.total is not None and self._identity.validator is not None:
            self._ranges = HttpRanges(self._client, self._identity, self._limits, self._closed)
        return bytes(head), span.end == span.total

    def _probe_stream(self, response: Response) -> tuple[bytes, bool]:
        self._identify(response, response.announced_bytes, b"")
        stream = HttpStream(response, self._identity)
        head_bytes = self._limits.head_bytes
        head = stream.peek(head_bytes + 1)  # one more byte tells whether the head is all
        self._stream = stream
        self._identify(response, response.announced_bytes, head[:head_bytes])
        return head[:head_bytes], len(head) <= head_bytes

    def _identify(self, response: Response, size_bytes: int | None, head: bytes) -> None:
        modified = strong_date(response.headers)
        validator = modified if self._ignore_etag else strong_etag(response.headers) or modified
        self._identity = FileIdentity(self._identity.location, size_bytes, validator, head, modified)

    def _read_ends(self, ranges: HttpRanges, head: bytes) -> tuple[bytes, bytes]:
        """Return the whole head, of which the server may have sent a part, and the last bytes behind it.

        No last bytes if the server does not send them: their request may succeed during the import.
        """
        size_bytes = self._identity.size_bytes or len(head)
        rest = bytearray(min(self._limits.head_bytes, size_bytes) - len(head))
        ranges.read_at(len(head), memoryview(rest), self._retry_policy.probe_attempts)
        tail = bytearray(min(TAIL_BYTES, size_bytes - len(head) - len(rest)))
        try:
            ranges.read_at(size_bytes - len(tail), memoryview(tail), _TAIL_ATTEMPTS)
        except NodesDisagree:
            raise
        except LoaderError as error:
            if error.code is FailureCode.SOURCE_CHANGED:
                raise
            tail = b""
        return head + rest, bytes(tail)


def _refuses_ranges(response: Response) -> bool:
    """Whether the whole file has to be requested: ranges are refused, or the range of an empty file has no bytes."""
    if response.status == 206:
        return response.announced_bytes == 0 or response.headers.get("Content-Range", "").endswith("/0")
    return response.status in _RANGE_REFUSALS and unsatisfied_total(response.headers) != 0
