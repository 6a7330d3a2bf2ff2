"""A file read by ranges, each requested and retried separately, from any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from loader.http.client import HttpClient, Response
from loader.http.concurrency_limit import ConcurrencyLimit
from loader.http.response import ContentRange, content_range, protocol_error, shown, truncated_body
from loader.http.retry import RetryBudget, TransientError
from loader.limits import Limits
from loader.source.http_identity import FileIdentity

# Of one `readinto`: large enough that the Python around it does not show, small enough that little is fetched again when a
# connection breaks within it.
STEP_BYTES = 1024 * 1024
# A server may send less than requested, but with a byte at a time each byte would be a request, and no limit on low speed
# would notice. With this size even one response in half a minute is above that limit.
_MIN_RESPONSE_BYTES = 64 * 1024


class HttpRanges:
    """Reads any part of a file whose size and validator are known."""

    def __init__(
        self, client: HttpClient, identity: FileIdentity, limits: Limits, closed: threading.Event
    ) -> None:
        self._client = client
        self._identity = identity
        self._retry_policy = limits.retry_policy
        self._closed = closed
        self._concurrency_limit = ConcurrencyLimit(limits.http_connections.at_most, closed)

    def read_at(self, offset: int, view: memoryview, attempts: int | None = None) -> None:
        """Fill `view` with the bytes from `offset` on, which the file has. Raises LoaderError and SourceClosed.

        `attempts` None: as in the retry policy.
        """
        budget = RetryBudget(self._retry_policy, attempts or self._retry_policy.attempts, self._closed)
        received = refilled_at = 0
        while received < len(view):
            try:
                for count in self._request(offset + received, view[received:]):
                    received += count
                    if received - refilled_at >= STEP_BYTES:
                        budget.refill()
                        refilled_at = received
            except TransientError as failure:
                budget.spend(failure)

    def _request(self, offset: int, view: memoryview) -> Iterator[int]:
        """Request a range once; fill `view` and yield after each step how many bytes. The response may be shorter."""
        range_header = {"Range": f"bytes={offset}-{offset + len(view) - 1}"}
        with self._concurrency_limit.slot():
            response = self._identity.request(self._client, range_header)
            try:
                self._identity.check_response(response)
                if response.status == 200:
                    self._identity.check_size(response.announced_bytes)
                    what = "the whole file instead of a range, although it sent a range before"
                    raise TransientError(protocol_error(self._identity.location, what))
                span = checked_range(response, offset, offset + len(view), self._identity.size_bytes)
                self._identity.check_size(span.total)
                yield from receive_range(response, view[: span.end - span.first])
            finally:
                response.finish()


def checked_range(response: Response, first: int, end: int, size_bytes: int | None) -> ContentRange:
    """Return the range of a 206: it starts at `first`, and ends at `end` or before. `size_bytes`: of the file, if known.

    Raises SOURCE_PROTOCOL for another range, TransientError for one that is too small.
    """
    span = content_range(response.headers)
    location = response.url.location
    if span is None or span.first != first or span.end > end:
        found = shown(response.headers.get("Content-Range", ""))
        raise protocol_error(location, f"Content-Range {found} for the bytes {first}-{end - 1}")
    total = size_bytes if span.total is None else span.total
    is_all = span.end in (end, total)
    if not is_all and total is not None and span.end - first < _MIN_RESPONSE_BYTES:
        what = f"only {span.end - first:,} bytes for the range {first}-{end - 1}"
        raise TransientError(protocol_error(location, what))
    return span


def receive_range(response: Response, view: memoryview) -> Iterator[int]:
    """Fill `view` with the body; yield after each step how many bytes. Raises TransientError and SOURCE_PROTOCOL."""
    location = response.url.location
    if response.announced_bytes not in (None, len(view)):
        what = f"Content-Length {response.announced_bytes} for a Content-Range of {len(view)} bytes"
        raise protocol_error(location, what)
    for start in range(0, len(view), STEP_BYTES):
        step = view[start : start + STEP_BYTES]
        if (count := response.receive(step)) < len(step):
            raise truncated_body(location, len(view) - start - count)
        yield count
    # reading the mark of the last chunk also makes the connection reusable
    if response.is_chunked and response.receive(memoryview(bytearray(1))):
        raise protocol_error(location, f"more bytes in its chunks than its Content-Range of {len(view)}")
