"""Reader threads on one side, one consumer on the other: segments filled side by side, handed over in order.

A segment is begun by a thread that has a buffer for it. So the one that the consumer waits for always has one, however
few there are; and the pool alone says how far the readers run ahead. Where the consumer waits for the source, more
threads help, and all of them fill the earliest segments, a piece each: else it waits for the slowest of them, while the
others have filled all the buffers behind it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import TypeVar

from loader.buffers import HEAD_ROOM_BYTES, MIB, SEGMENT_BYTES, Buffer, BufferPool, Segment
from loader.cancellation import POLL_INTERVAL_SECONDS, SourceClosed
from loader.source.base import MAX_CONCURRENT_REQUESTS
from loader.threads import run_in_daemon_thread

# So long the consumer has waited for the source, since it was last ahead of the consumer, before it is helped.
_SLOW_SECONDS = 0.5
# Of a segment, then, for one thread. Each is a request, which costs 0.2 ms of CPU, and a round trip in which its
# connection is idle; a connection that is slow at times is waited for the less, the smaller they are.
_SLOW_PIECE_BYTES = 2 * MIB

Result = TypeVar("Result")
# Fills the view with the bytes from an offset on. Returns how many, fewer only at the end of the file, and
# how many bytes of the source as transferred they took.
Fill = Callable[[int, memoryview], tuple[int, int]]


def run_until_closed(function: Callable[[], Result], closed: threading.Event) -> Result:
    """Return what `function` returns, run in a thread: a name look-up that hangs can't be interrupted, but left behind.

    Raises what it raises, or SourceClosed.
    """
    answer = run_in_daemon_thread(function)
    while not (closed.is_set() or wait([answer], POLL_INTERVAL_SECONDS).done):
        pass
    if closed.is_set():
        raise SourceClosed
    return answer.result()


class _Filling:
    """A segment in the making. Whoever looks at it holds the delivery's lock."""

    def __init__(self, buffer: Buffer, offset: int, length: int) -> None:
        self.buffer = buffer
        self.offset = offset  # in the file
        self.length = length
        self.claimed = 0  # bytes, from its beginning
        self.in_flight = 0  # pieces
        self.source_bytes = 0


class _Prefetch:
    """The state that readers and consumer share."""

    def __init__(
        self,
        fill: Fill,
        start: int,
        end: int | None,
        pool: BufferPool,
        threads: int,
        closed: threading.Event,
    ) -> None:
        self._fill = fill
        self._pool = pool
        self._threads = threads
        self._piece_bytes = SEGMENT_BYTES
        self._waited_seconds = 0.0
        self._buffers_wanted = 0  # by threads that found none
        self._closed = closed
        self._changed = threading.Condition()
        self._unbegun = start  # offset of the next segment to be begun
        self._undelivered = start  # offset of the next segment to be handed over
        self._end = end  # None: not known yet
        self._begun: _Filling | None = None  # the last segment, while not all of it is claimed
        self._ready: dict[int, Segment] = {}
        self._error: BaseException | None = None
        self._stopped = False

    def start(self) -> None:
        """Let the threads read."""
        self._start(self._threads)

    def _start(self, threads: int) -> None:
        for _ in range(threads):
            threading.Thread(target=self._read, name="fetch", daemon=True).start()

    def _read(self) -> None:
        """Fetch one piece after the other, until none is left. The body of a reader thread."""
        try:
            while (claim := self._claim()) is not None:
                self._fetch(*claim)
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
                self._wait()

    def _wait(self) -> None:
        """Wait for a change, and see whose fault that is: who has the buffers is the slow one."""
        began, was_ahead = time.monotonic(), self._is_ahead()
        self._changed.wait(POLL_INTERVAL_SECONDS)
        self._waited_seconds += time.monotonic() - began
        if was_ahead or self._is_ahead():
            self._waited_seconds = 0
        if 1 < self._threads < MAX_CONCURRENT_REQUESTS and self._waited_seconds > _SLOW_SECONDS:
            self._piece_bytes = _SLOW_PIECE_BYTES
            missing, self._threads = MAX_CONCURRENT_REQUESTS - self._threads, MAX_CONCURRENT_REQUESTS
            with contextlib.suppress(RuntimeError):  # no more threads for us: it goes on as it is
                self._start(missing)

    def _is_ahead(self) -> bool:
        """Whether the source waits for buffers, and the workers have them."""
        return self._buffers_wanted > 0 and not self._ready

    def stop(self) -> None:
        """Let the threads end, and give back what nobody will take."""
        with self._changed:
            self._stopped = True
            for segment in self._ready.values():
                self._pool.release(segment.buffer)
            self._ready.clear()
            if self._begun is not None and self._begun.in_flight == 0:
                self._pool.release(self._begun.buffer)
            self._begun = None

    def _claim(self) -> tuple[_Filling, int, int] | None:
        """Return a segment, and where in it a piece begins and ends; None when there is no more to fetch."""
        while True:
            with self._changed:
                if not self._is_wanted():
                    return None
                if self._begun is not None:
                    return self._claim_piece(self._begun)
            if (buffer := self._pool.acquire(0) or self._wait_for_buffer()) is None:
                continue
            with self._changed:
                if self._begun is None and self._is_wanted():
                    return self._claim_piece(self._begin(buffer))
            self._pool.release(buffer)

    def _wait_for_buffer(self) -> Buffer | None:
        with self._changed:
            self._buffers_wanted += 1
        buffer = self._pool.acquire(POLL_INTERVAL_SECONDS)
        with self._changed:
            self._buffers_wanted -= 1
        return buffer

    def _is_wanted(self) -> bool:
        more = self._end is None or self._unbegun < self._end or self._begun is not None
        return more and not (self._stopped or self._closed.is_set() or self._error)

    def _begin(self, buffer: Buffer) -> _Filling:
        offset = self._unbegun
        length = SEGMENT_BYTES if self._end is None else min(SEGMENT_BYTES, self._end - offset)
        self._unbegun = offset + length
        self._begun = _Filling(buffer, offset, length)
        return self._begun

    def _claim_piece(self, filling: _Filling) -> tuple[_Filling, int, int]:
        begin = filling.claimed
        filling.claimed = min(begin + self._piece_bytes, filling.length)
        filling.in_flight += 1
        if filling.claimed == filling.length:
            self._begun = None
        return filling, begin, filling.claimed

    def _fetch(self, filling: _Filling, begin: int, end: int) -> None:
        view = filling.buffer.view[HEAD_ROOM_BYTES + begin : HEAD_ROOM_BYTES + end]
        try:
            count, source_bytes = self._fill(filling.offset + begin, view)
        except BaseException:
            with self._changed:
                filling.length = 0  # it will never be whole
                if self._begun is filling:
                    self._begun = None
                self._landed(filling)
            raise
        with self._changed:
            if count < end - begin:
                filling.length = begin + count
                self._end = filling.offset + filling.length
            filling.source_bytes += source_bytes
            self._landed(filling)

    def _landed(self, filling: _Filling) -> None:
        """After a piece: when it was the segment's last, make that ready, or give back its buffer."""
        filling.in_flight -= 1
        self._changed.notify_all()
        if filling.in_flight > 0 or self._begun is filling:
            return
        if filling.length == 0 or self._stopped:
            self._pool.release(filling.buffer)
            return
        end = HEAD_ROOM_BYTES + filling.length
        self._ready[filling.offset] = Segment(
            filling.buffer, HEAD_ROOM_BYTES, end, filling.offset, filling.source_bytes
        )


def prefetched(
    fill: Fill, start: int, end: int | None, pool: BufferPool, threads: int, closed: threading.Event
) -> Iterator[Segment]:
    """Yield the bytes [start, end) in order, filled by `threads` threads at once, by more where the source is slow.

    `end` None: until `fill` fills less. With more than one thread, `end` is given. The consumer releases the buffers.
    Raises what `fill` raises, and SourceClosed.
    """
    if end is not None:
        threads = min(threads, -(-(end - start) // SEGMENT_BYTES))
    delivery = _Prefetch(fill, start, end, pool, threads, closed)
    delivery.start()
    try:
        while (segment := delivery.take()) is not None:
            yield segment
    finally:
        delivery.stop()
