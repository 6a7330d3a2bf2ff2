"""A file by ranges, each asked for and retried alone, from any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from loader.http.client import HttpClient, Response
from loader.http.concurrency_limit import ConcurrencyLimit
from loader.http.response import ContentRange, content_range, cut_off, protocol_error, shown
from loader.http.retry import RetryBudget, TransientError
from loader.limits import Limits
from loader.source.http_identity import HttpFile

# One `readinto`: large enough that Python's part does not show, small enough that little is fetched again
# when a connection breaks within it.
STEP_BYTES = 1024 * 1024
# A server may send less than it was asked for, but not a byte at a time: that would be a request a byte, and no floor
# under its throughput would notice. With this much even one answer in half a minute is above the floor.
_MIN_ANSWER_BYTES = 64 * 1024


class HttpRanges:
    """Reads any part of a file whose size and validator are known."""

    def __init__(self, client: HttpClient, file: HttpFile, limits: Limits, closed: threading.Event) -> None:
        self._client = client
        self._file = file
        self._retry_policy = limits.retry_policy
        self._closed = closed
        self._concurrency_limit = ConcurrencyLimit(limits.http_connections.at_most, closed)

    def read_at(self, offset: int, view: memoryview, attempts: int | None = None) -> None:
        """Fill `view` with the bytes from `offset` on, which the file has; `attempts` None: as in the retry policy.

        Raises LoaderError and SourceClosed.
        """
        budget = RetryBudget(self._retry_policy, attempts or self._retry_policy.attempts, self._closed)
        received = refilled_at = 0
        while received < len(view):
            try:
                for count in self._ask(offset + received, view[received:]):
                    received += count
                    if received - refilled_at >= STEP_BYTES:
                        budget.refill()
                        refilled_at = received
            except TransientError as failure:
                budget.spend(failure)

    def _ask(self, offset: int, view: memoryview) -> Iterator[int]:
        range_header = {"Range": f"bytes={offset}-{offset + len(view) - 1}"}
        with self._concurrency_limit.slot():
            answer = self._client.get({**range_header, **self._file.precondition()})
            try:
                self._file.check_answer(answer)
                if answer.status == 200:
                    self._file.check_size(answer.announced_bytes)
                    what = "it sends the whole file, after it had sent a range"
                    raise TransientError(protocol_error(self._file.location, what))
                span = checked_range(answer, offset, offset + len(view), self._file.size_bytes)
                self._file.check_size(span.total)
                yield from receive_range(answer, view[: span.end - span.first])
            finally:
                answer.finish()


def checked_range(answer: Response, first: int, end: int, size_bytes: int | None) -> ContentRange:
    """Return the range of a 206: from `first` on, and not beyond `end`, but maybe less. `size_bytes`: as known so far.

    Raises SOURCE_PROTOCOL for another range, and AttemptFailed for one that is too small.
    """
    span = content_range(answer.headers)
    what = f"asked for bytes {first}-{end - 1}, it sends"
    if span is None or span.first != first or span.end > end:
        found = shown(answer.headers.get("Content-Range", ""))
        raise protocol_error(answer.address.location, f"{what} Content-Range {found}")
    total = size_bytes if span.total is None else span.total
    is_all = span.end in (end, total)
    if not is_all and total is not None and span.end - first < _MIN_ANSWER_BYTES:
        raise TransientError(
            protocol_error(answer.address.location, f"{what} {span.end - first:,} bytes at a time")
        )
    return span


def receive_range(answer: Response, view: memoryview) -> Iterator[int]:
    """Fill `view` with the body; yield after each step how many bytes. Raises AttemptFailed and SOURCE_PROTOCOL."""
    location = answer.address.location
    if answer.announced_bytes not in (None, len(view)):
        what = f"an answer of {len(view)} bytes by Content-Range has Content-Length {answer.announced_bytes}"
        raise protocol_error(location, what)
    for begin in range(0, len(view), STEP_BYTES):
        step = view[begin : begin + STEP_BYTES]
        if (count := answer.receive(step)) < len(step):
            raise cut_off(location, len(view) - begin - count)
        yield count
    # reading the last chunk's mark also frees the connection for the next request
    if answer.is_chunked and answer.receive(memoryview(bytearray(1))):
        raise protocol_error(
            location, f"an answer of {len(view)} bytes by Content-Range has more in its chunks"
        )
