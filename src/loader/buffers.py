"""The memory for bytes in flight: a fixed pool of buffers, filled by the source, emptied by the workers.

The pool bounds the memory of an import: a source that runs ahead of the database waits for a free buffer.
"""

from __future__ import annotations

import mmap
import queue

import msgspec

MIB = 1 << 20
# One fetch, and about one block: large enough that the work per block does not show; a dozen of them fit in memory anywhere.
SEGMENT_BYTES = 8 * MIB
# The kernel reads 8-byte words and may read this far behind the end.
SLACK_BYTES = 64


class Buffer:
    """2 * segment_bytes + SLACK_BYTES of memory; pages that are never touched cost nothing.

    A segment starts at `segment_bytes`. The space before it holds the partial record of the previous segment,
    which may be as long as a whole segment.
    """

    def __init__(self, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.segment_bytes = segment_bytes
        self.view = memoryview(mmap.mmap(-1, 2 * segment_bytes + SLACK_BYTES))


class Segment(msgspec.Struct):
    """Consecutive bytes of the (decompressed) file: `buffer.view[start:end]`. Only the last of a range may be short."""

    buffer: Buffer
    start: int
    end: int
    byte_offset: int  # in the decompressed file, of the byte at `start`
    source_bytes: int  # its share of the source as transferred; for plain files end - start


class BufferPool:
    """A fixed number of buffers, acquired and released from any thread."""

    def __init__(self, count: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.segment_bytes = segment_bytes
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(Buffer(segment_bytes))

    def acquire(self, timeout_seconds: float) -> Buffer | None:
        """Return a free buffer, or None when there was none within the time."""
        try:
            return self._free.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def release(self, buffer: Buffer) -> None:
        """Put a buffer back; its contents are lost."""
        self._free.put(buffer)
