"""How many threads fetch a source: `at_start`, and `at_most` once it is slow."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from loader.buffers import Buffer, BufferPool, Segment
from loader.limits import SEQUENTIAL, Parallelism
from loader.source.prefetch import prefetched
from tests.support.loader_process import wait_for

SEGMENT_BYTES = 1024
PIECE_BYTES = 256
SLOW_SECONDS = 0.05
SEGMENTS = 16


class SlowSource:
    """A source of zeros that does not respond until it is released."""

    def __init__(self) -> None:
        self.lengths: list[int] = []  # of the reads so far
        self.released = threading.Event()

    def fill(self, _offset: int, view: memoryview) -> tuple[int, int]:
        self.lengths.append(len(view))
        self.released.wait()
        return len(view), len(view)

    def segments(
        self, pool: BufferPool, parallelism: Parallelism, count: int = SEGMENTS
    ) -> Iterator[Segment]:
        return prefetched(self.fill, 0, count * SEGMENT_BYTES, pool, parallelism, threading.Event())


def slow(at_start: int, at_most: int) -> Parallelism:
    return Parallelism(at_start, at_most, PIECE_BYTES, SLOW_SECONDS)


def fetch_threads() -> int:
    return sum(thread.name == "fetch" for thread in threading.enumerate())


@pytest.mark.parametrize("at_start", [1, 2, 4, 9, 10])
@pytest.mark.parametrize("at_most", [1, 2, 10, 12])
def test_a_source_is_read_by_at_start_threads_and_by_at_most_once_it_is_slow(
    at_start: int, at_most: int
) -> None:
    source, pool = SlowSource(), BufferPool(20, SEGMENT_BYTES)
    limit = max(at_start, at_most)
    with ThreadPoolExecutor(1) as consumer:
        segments = source.segments(pool, slow(at_start, at_most))
        first = consumer.submit(next, segments)
        wait_for("all threads", lambda: len(source.lengths) == limit)
        assert fetch_threads() == limit
        source.released.set()
        pool.release(first.result().buffer)
        for segment in segments:
            pool.release(segment.buffer)
    assert sum(source.lengths) == SEGMENTS * SEGMENT_BYTES
    assert source.lengths[:limit] == at_start * [SEGMENT_BYTES] + (limit - at_start) * [PIECE_BYTES]


def test_a_sequential_source_is_never_read_by_two_threads() -> None:
    source, pool = SlowSource(), BufferPool(4, SEGMENT_BYTES)
    source.released.set()
    for segment in source.segments(pool, SEQUENTIAL):
        assert fetch_threads() <= 1
        pool.release(segment.buffer)
    assert source.lengths == SEGMENTS * [SEGMENT_BYTES]


def test_a_file_of_few_segments_is_read_by_as_many_threads() -> None:
    source, pool = SlowSource(), BufferPool(4, SEGMENT_BYTES)
    source.released.set()
    for segment in source.segments(pool, slow(4, 4), count=2):
        pool.release(segment.buffer)
    assert source.lengths == 2 * [SEGMENT_BYTES]


def test_a_source_that_waits_for_buffers_is_not_slow() -> None:
    """Another thread than the consumer releases the buffers, one at a time and late."""
    source, pool = SlowSource(), BufferPool(4, SEGMENT_BYTES)
    source.released.set()
    held: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()

    def release_late() -> None:
        pause = threading.Event()
        while (buffer := held.get()) is not None:
            pause.wait(SLOW_SECONDS / 2)  # the time that a worker takes for a segment is what is tested
            pool.release(buffer)

    with ThreadPoolExecutor(1) as workers:
        workers.submit(release_late)
        for segment in source.segments(pool, slow(2, 10)):
            held.put(segment.buffer)
        held.put(None)
    assert source.lengths == SEGMENTS * [SEGMENT_BYTES]
