"""The memory that bytes travel in: a fixed pool of buffers, filled by the source, emptied by the workers.

The pool is the import's memory bound: a source that runs ahead of the database waits here for a free buffer.
"""

from __future__ import annotations

import mmap
import queue

import msgspec

MIB = 1 << 20
# One fetch, and about one block: large enough that the work per block does not show, small enough that a
# dozen of them are no memory to speak of.
SEGMENT_BYTES = 8 * MIB
# Room before the segment for what the segment before it left uncut: a record as long as a whole segment still fits.
HEAD_ROOM_BYTES = SEGMENT_BYTES
# The kernel reads 8-byte words and may look past the end by this much.
SLACK_BYTES = 64


class Buffer:
    """HEAD_ROOM_BYTES + SEGMENT_BYTES + SLACK_BYTES of memory; pages never touched cost nothing."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, HEAD_ROOM_BYTES + SEGMENT_BYTES + SLACK_BYTES)
        self.view = memoryview(self.memory)


class Segment(msgspec.Struct):
    """Consecutive bytes of the (decompressed) file: `buffer.view[start:end]`. Only the last of a range may be short."""

    buffer: Buffer
    start: int
    end: int
    byte_offset: int  # in the decompressed file, of the byte at `start`
    source_bytes: int  # what it took of the source as transferred; for plain files end - start


class BufferPool:
    """A fixed number of buffers, handed out and taken back from any thread."""

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(Buffer())

    def acquire(self, timeout_seconds: float) -> Buffer | None:
        """Return a free buffer, or None when there was none within the time: look whether to go on, ask again."""
        try:
            return self._free.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def release(self, buffer: Buffer) -> None:
        """Give a buffer back; its contents are lost."""
        self._free.put(buffer)
