"""Segments are fetched by more threads where the source is slow, and only there."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from loader.buffers import SEGMENT_BYTES, Buffer, BufferPool
from loader.source import prefetch
from loader.source.prefetch import prefetched
from tests.support.loader_process import wait_for

SLOW_SECONDS = 0.05
SEGMENTS = 16


class Fills:
    """Fills views with nothing, once it may, and remembers how long they were."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.may_go_on = threading.Event()

    def fill(self, _offset: int, view: memoryview) -> tuple[int, int]:
        self.lengths.append(len(view))
        self.may_go_on.wait()
        return len(view), len(view)


@pytest.fixture
def fills(monkeypatch: pytest.MonkeyPatch) -> Fills:
    monkeypatch.setattr(prefetch, "_SLOW_SECONDS", SLOW_SECONDS)
    return Fills()


def test_a_source_that_everybody_waits_for_is_asked_for_pieces(fills: Fills) -> None:
    pool = BufferPool(4)
    segments = prefetched(fills.fill, 0, SEGMENTS * SEGMENT_BYTES, pool, 2, threading.Event())
    with ThreadPoolExecutor(1) as consumer:
        first = consumer.submit(next, segments)
        wait_for("more threads", lambda: len(fills.lengths) > 2)
        fills.may_go_on.set()
        pool.release(first.result().buffer)
        for segment in segments:
            pool.release(segment.buffer)
    assert sum(fills.lengths) == SEGMENTS * SEGMENT_BYTES
    assert min(fills.lengths) < SEGMENT_BYTES


def test_a_source_that_waits_for_buffers_is_asked_as_before(fills: Fills) -> None:
    """The workers give one back at a time, and take long: another thread than the one that waits for the next segment."""
    fills.may_go_on.set()
    pool = BufferPool(4)
    held: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()

    def give_back() -> None:
        pause = threading.Event()
        while (buffer := held.get()) is not None:
            pause.wait(SLOW_SECONDS / 2)  # what a worker takes for a segment: the time is what is tried here
            pool.release(buffer)

    with ThreadPoolExecutor(1) as workers:
        workers.submit(give_back)
        for segment in prefetched(fills.fill, 0, SEGMENTS * SEGMENT_BYTES, pool, 2, threading.Event()):
            held.put(segment.buffer)
        held.put(None)
    assert fills.lengths == SEGMENTS * [SEGMENT_BYTES]
