"""Reader threads on one side, one consumer on the other: segments filled side by side, handed over in order.

A thread takes a free buffer first and the next range second. So the range that the consumer waits for always has a
buffer, however few there are; and the pool alone says how far the readers run ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import TypeVar

from loader import aside
from loader.buffers import HEAD_ROOM_BYTES, SEGMENT_BYTES, Buffer, BufferPool, Segment
from loader.raw_source import SourceClosed

# How soon a wait notices that the source was closed: a person's "at once", and nothing of a CPU.
GLANCE_SECONDS = 0.1

Result = TypeVar("Result")
# Fills the view with the bytes from an offset on. Returns how many, fewer only at the end of the file, and
# how many bytes of the source as transferred they took.
Fill = Callable[[int, memoryview], tuple[int, int]]


def run_until_closed(function: Callable[[], Result], closed: threading.Event) -> Result:
    """Return what `function` returns, run in a thread: a name look-up that hangs can't be interrupted, but left behind.

    Raises what it raises, or SourceClosed.
    """
    answer = aside.begin(function)
    while not (closed.is_set() or wait([answer], GLANCE_SECONDS).done):
        pass
    if closed.is_set():
        raise SourceClosed
    return answer.result()


class _Delivery:
    """The state that readers and consumer share."""

    def __init__(
        self, fill: Fill, start: int, end: int | None, pool: BufferPool, closed: threading.Event
    ) -> None:
        self._fill = fill
        self._pool = pool
        self._closed = closed
        self._changed = threading.Condition()
        self._unclaimed = start  # offset of the next range to be fetched
        self._undelivered = start  # offset of the next segment to be handed over
        self._end = end  # None: not known yet
        self._ready: dict[int, Segment] = {}
        self._error: BaseException | None = None
        self._stopped = False

    def read(self) -> None:
        """Fetch one range after the other, until none is left. The body of a reader thread."""
        try:
            while (buffer := self._acquire()) is not None:
                if (claim := self._claim()) is None:
                    self._pool.release(buffer)
                    break
                self._fetch(buffer, *claim)
        except BaseException as error:  # it is raised where it is waited for
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def take(self) -> Segment | None:
        """Wait for the next segment; None at the end."""
        with self._changed:
            while True:
                if self._closed.is_set():
                    raise SourceClosed
                if self._error is not None:
                    raise self._error
                if (segment := self._ready.pop(self._undelivered, None)) is not None:
                    self._undelivered += segment.end - segment.start
                    return segment
                if self._end is not None and self._undelivered >= self._end:
                    return None
                self._changed.wait(GLANCE_SECONDS)

    def stop(self) -> None:
        """Let the threads end, and give back what nobody will take."""
        with self._changed:
            self._stopped = True
            for segment in self._ready.values():
                self._pool.release(segment.buffer)
            self._ready.clear()

    def _acquire(self) -> Buffer | None:
        while self._is_wanted():
            if (buffer := self._pool.acquire(GLANCE_SECONDS)) is not None:
                return buffer
        return None

    def _is_wanted(self) -> bool:
        with self._changed:
            more = self._end is None or self._unclaimed < self._end
            return more and not (self._stopped or self._closed.is_set() or self._error)

    def _claim(self) -> tuple[int, int] | None:
        with self._changed:
            offset = self._unclaimed
            length = SEGMENT_BYTES if self._end is None else min(SEGMENT_BYTES, self._end - offset)
            if length <= 0:
                return None
            self._unclaimed = offset + length
            return offset, length

    def _fetch(self, buffer: Buffer, offset: int, length: int) -> None:
        delivered = False
        try:
            view = buffer.view[HEAD_ROOM_BYTES : HEAD_ROOM_BYTES + length]
            count, source_bytes = self._fill(offset, view)
            with self._changed:
                if count < length:
                    self._end = offset + count
                if count > 0 and not self._stopped:
                    end = HEAD_ROOM_BYTES + count
                    self._ready[offset] = Segment(buffer, HEAD_ROOM_BYTES, end, offset, source_bytes)
                    delivered = True
                self._changed.notify_all()
        finally:
            if not delivered:
                self._pool.release(buffer)


def deliver(
    fill: Fill, start: int, end: int | None, pool: BufferPool, threads: int, closed: threading.Event
) -> Iterator[Segment]:
    """Yield the bytes [start, end) in order, filled by `threads` threads at once; end None: until `fill` fills less.

    With more than one thread, `end` is given. The consumer releases the buffers. Raises what `fill` raises, and
    SourceClosed.
    """
    delivery = _Delivery(fill, start, end, pool, closed)
    if end is not None:
        threads = min(threads, -(-(end - start) // SEGMENT_BYTES))
    for _ in range(threads):
        threading.Thread(target=delivery.read, name="fetch", daemon=True).start()
    try:
        while (segment := delivery.take()) is not None:
            yield segment
    finally:
        delivery.stop()
