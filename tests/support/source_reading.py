"""How tests read a source: everything at once, with patience for a test's length."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

import msgspec

from loader.buffers import SEGMENT_BYTES, BufferPool
from loader.limits import DEFAULT_LIMITS, Limits, Parallelism, RetryPolicy
from loader.source.open import Source, SourceInfo, open_source

# Retries at once, but waits for a response as long as a busy machine may need.
QUICK = RetryPolicy(attempts=4, probe_attempts=3, first_delay_seconds=0.01, max_delay_seconds=0.02)


HEAD_BYTES = DEFAULT_LIMITS.head_bytes


@dataclass(frozen=True)
class Read:
    """What came out of `segments`."""

    data: bytes
    source_bytes: int
    length_verified: bool


@contextlib.contextmanager
def opened(
    location: str,
    connections: int = 2,
    retry_policy: RetryPolicy = QUICK,
    limits: Limits = DEFAULT_LIMITS,
    *,
    ignore_etag: bool = False,
) -> Generator[Source]:
    """Open a source, read by `connections` at first; close it in the end."""
    parallelism = Parallelism(at_start=connections)
    limits = msgspec.structs.replace(limits, http_connections=parallelism, retry_policy=retry_policy)
    source = open_source(location, limits, ignore_etag=ignore_etag)
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
        assert segment.start == SEGMENT_BYTES
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
