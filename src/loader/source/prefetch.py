"""Segments of a source, fetched by several threads ahead of one consumer, and handed over in order.

A thread acquires a buffer before it claims bytes of the file. So the segment that the consumer waits for always has a
buffer, even if the pool has only one, and the pool alone bounds how far the threads run ahead. Where the consumer waits
for the source, more threads fetch the earliest segments in pieces. Otherwise the consumer would wait for the slowest
thread, while the others have filled all the buffers behind it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from loader.buffers import Buffer, BufferPool, Segment
from loader.cancellation import POLL_INTERVAL_SECONDS, raise_if_closed
from loader.limits import Parallelism

# Fills the view with the bytes from an offset on. Returns how many, fewer only at the end of the file, and
# how many bytes of the source as transferred they took.
Fill = Callable[[int, memoryview], tuple[int, int]]


class _PendingSegment:
    """A segment that is being fetched. Guarded by the lock of its `_Prefetch`."""

    def __init__(self, buffer: Buffer, offset: int, length: int) -> None:
        self.buffer = buffer
        self.offset = offset  # in the file
        self.length = length
        self.claimed_bytes = 0  # from its start
        self.pieces_in_flight = 0
        self.source_bytes = 0


class _Prefetch:
    """The state that the fetching threads and the consumer share."""

    def __init__(
        self,
        fill: Fill,
        start: int,
        end: int | None,
        pool: BufferPool,
        parallelism: Parallelism,
        closed: threading.Event,
    ) -> None:
        self._fill = fill
        self._pool = pool
        self._parallelism = parallelism
        self._thread_count = 0
        self._piece_bytes = pool.segment_bytes
        self._waited_seconds = 0.0
        self._threads_without_buffer = 0
        self._closed = closed
        self._changed = threading.Condition()
        self._fetch_offset = start  # of the next segment to fetch
        self._delivery_offset = start  # of the next segment to hand over
        self._end = end  # None: not known yet
        self._open: _PendingSegment | None = None  # the last segment, until all of it is claimed
        self._ready: dict[int, Segment] = {}
        self._error: BaseException | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Start as many threads as there are segments for, at most `at_start`."""
        count = self._parallelism.at_start
        if self._end is not None:
            segments = -(-(self._end - self._fetch_offset) // self._pool.segment_bytes)
            count = min(count, segments)
        self._start_threads(count)

    def _start_threads(self, count: int) -> None:
        self._thread_count += count
        for _ in range(count):
            threading.Thread(target=self._run, name="fetch", daemon=True).start()

    def _run(self) -> None:
        try:
            while (claim := self._claim()) is not None:
                self._fetch(*claim)
        except BaseException as error:  # `take` raises it
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def take(self) -> Segment | None:
        """Wait for the next segment; None at the end."""
        with self._changed:
            while True:
                raise_if_closed(self._closed)
                if self._error is not None:
                    raise self._error
                if (segment := self._ready.pop(self._delivery_offset, None)) is not None:
                    self._delivery_offset += segment.end - segment.start
                    return segment
                if self._end is not None and self._delivery_offset >= self._end:
                    return None
                self._wait()

    def _wait(self) -> None:
        """Wait for a change; start more threads once the source has been slow for `slow_seconds`."""
        started, was_ahead = time.monotonic(), self._is_ahead()
        self._changed.wait(POLL_INTERVAL_SECONDS)
        self._waited_seconds += time.monotonic() - started
        if was_ahead or self._is_ahead():
            self._waited_seconds = 0
        missing = self._parallelism.at_most - self._thread_count
        if missing > 0 and self._waited_seconds > self._parallelism.slow_seconds:
            self._piece_bytes = self._parallelism.piece_bytes
            with contextlib.suppress(RuntimeError):  # the system's limit on threads: continue with fewer
                self._start_threads(missing)

    def _is_ahead(self) -> bool:
        """Whether the source waits for buffers, and the workers have them."""
        return self._threads_without_buffer > 0 and not self._ready

    def stop(self) -> None:
        """Let the threads end, and release the buffers that the consumer does not take."""
        with self._changed:
            self._is_stopped = True
            for segment in self._ready.values():
                self._pool.release(segment.buffer)
            self._ready.clear()
            if self._open is not None and self._open.pieces_in_flight == 0:
                self._pool.release(self._open.buffer)
            self._open = None

    def _claim(self) -> tuple[_PendingSegment, int, int] | None:
        """Return a segment, and where in it a piece starts and ends; None when there is no more to fetch."""
        while True:
            with self._changed:
                if not self._has_more():
                    return None
                if self._open is not None:
                    return self._claim_piece(self._open)
            if (buffer := self._pool.acquire(0) or self._wait_for_buffer()) is None:
                continue
            with self._changed:
                if self._open is None and self._has_more():
                    return self._claim_piece(self._open_segment(buffer))
            self._pool.release(buffer)

    def _wait_for_buffer(self) -> Buffer | None:
        with self._changed:
            self._threads_without_buffer += 1
        buffer = self._pool.acquire(POLL_INTERVAL_SECONDS)
        with self._changed:
            self._threads_without_buffer -= 1
        return buffer

    def _has_more(self) -> bool:
        is_at_end = self._end is not None and self._fetch_offset >= self._end and self._open is None
        return not (is_at_end or self._is_stopped or self._closed.is_set() or self._error)

    def _open_segment(self, buffer: Buffer) -> _PendingSegment:
        offset, length = self._fetch_offset, self._pool.segment_bytes
        if self._end is not None:
            length = min(length, self._end - offset)
        self._fetch_offset = offset + length
        self._open = _PendingSegment(buffer, offset, length)
        return self._open

    def _claim_piece(self, pending: _PendingSegment) -> tuple[_PendingSegment, int, int]:
        start = pending.claimed_bytes
        pending.claimed_bytes = min(start + self._piece_bytes, pending.length)
        pending.pieces_in_flight += 1
        if pending.claimed_bytes == pending.length:
            self._open = None
        return pending, start, pending.claimed_bytes

    def _fetch(self, pending: _PendingSegment, start: int, end: int) -> None:
        room = self._pool.segment_bytes
        try:
            count, source_bytes = self._fill(
                pending.offset + start, pending.buffer.view[room + start : room + end]
            )
        except BaseException:
            with self._changed:
                pending.length = 0  # it will never be whole
                if self._open is pending:
                    self._open = None
                self._end_piece(pending)
            raise
        with self._changed:
            if count < end - start:
                pending.length = start + count
                self._end = pending.offset + pending.length
            pending.source_bytes += source_bytes
            self._end_piece(pending)

    def _end_piece(self, pending: _PendingSegment) -> None:
        """Count a piece as ended. After the segment's last one, hand the segment over or release its buffer."""
        pending.pieces_in_flight -= 1
        self._changed.notify_all()
        if pending.pieces_in_flight > 0 or self._open is pending:
            return
        if pending.length == 0 or self._is_stopped:
            self._pool.release(pending.buffer)
            return
        start = self._pool.segment_bytes
        self._ready[pending.offset] = Segment(
            pending.buffer, start, start + pending.length, pending.offset, pending.source_bytes
        )


def prefetched(
    fill: Fill,
    start: int,
    end: int | None,
    pool: BufferPool,
    parallelism: Parallelism,
    closed: threading.Event,
) -> Iterator[Segment]:
    """Yield the bytes [start, end) in order, fetched by threads as `parallelism` says. The consumer releases the buffers.

    `end` None: until `fill` fills less; then `parallelism` is SEQUENTIAL. Raises what `fill` raises, and SourceClosed.
    """
    prefetch = _Prefetch(fill, start, end, pool, parallelism, closed)
    prefetch.start()
    try:
        while (segment := prefetch.take()) is not None:
            yield segment
    finally:
        prefetch.stop()
