"""How tests read a source: everything at once, with patience for a test's length."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

from loader.buffers import HEAD_ROOM_BYTES, SEGMENT_BYTES, BufferPool
from loader.http.retry import RetryPolicy
from loader.source.open import Source, SourceInfo, open_source

# RetryPolicy at once, but as long for an answer as a busy machine may need.
QUICK = RetryPolicy(attempts=4, probe_attempts=3, first_delay_seconds=0.01, longest_delay_seconds=0.02)


@dataclass(frozen=True)
class Read:
    """What came out of `segments`."""

    data: bytes
    source_bytes: int
    length_verified: bool


@contextlib.contextmanager
def opened(location: str, connections: int = 2, retry_policy: RetryPolicy = QUICK) -> Generator[Source]:
    """Open a source, close it in the end."""
    source = open_source(location, connections=connections, retry_policy=retry_policy)
    try:
        yield source
    finally:
        source.close()


def read(source: Source, start: int = 0, end: int | None = None, buffers: int = 3) -> Read:
    """Read [start, end) of a probed source; check what is promised of every segment."""
    pool = BufferPool(buffers)
    pieces: list[bytes] = []
    position, source_bytes, lengths = start, 0, list[int]()
    for segment in source.segments(start, end, pool):
        assert segment.start == HEAD_ROOM_BYTES
        assert segment.byte_offset == position
        pieces.append(bytes(segment.buffer.view[segment.start : segment.end]))
        pool.release(segment.buffer)
        position += len(pieces[-1])
        source_bytes += segment.source_bytes
        lengths.append(len(pieces[-1]))
    assert all(length == SEGMENT_BYTES for length in lengths[:-1])
    assert all(0 < length <= SEGMENT_BYTES for length in lengths[-1:])
    return Read(b"".join(pieces), source_bytes, source.length_verified)


def probe_and_read(location: str, retry_policy: RetryPolicy = QUICK) -> tuple[SourceInfo, Read]:
    """Open, probe, read all, close."""
    with opened(location, retry_policy=retry_policy) as source:
        info = source.probe()
        return info, read(source)
