"""Where a zstd file may end: walks over frames and blocks by their headers (RFC 8878, 3.1).

libzstd's stream reader, as the package wraps it, takes a file that is cut off for one that is whole.
"""

from __future__ import annotations

from collections.abc import Generator

import zstandard

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Sixteen magic numbers, for frames that a decoder passes over; parallel compressors begin files with one.
SKIPPABLE_MAGICS = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))
_FRAME_START_BYTES = 5  # magic number and descriptor: they tell how long the header is
_RLE = 1  # a block of one byte, repeated


class FrameWalk:
    """Is fed a file's bytes in order, and knows whether they end where a frame ends."""

    def __init__(self) -> None:
        self._is_between = True
        self._held = bytearray()
        self._steps = self._walk()
        self._wanted = next(self._steps)

    @property
    def is_between_frames(self) -> bool:
        """No frame has begun and not ended."""
        return self._is_between and not self._held

    def feed(self, data: bytes) -> None:
        """Walk on. May raise zstandard.ZstdError where the bytes are no frame; the decoder of the same bytes does."""
        position = 0
        while position < len(data):
            if self._wanted < 0:
                passed = min(-self._wanted, len(data) - position)
                self._wanted += passed
                position += passed
            else:
                taken = data[position : position + self._wanted - len(self._held)]
                self._held += taken
                position += len(taken)
            while self._wanted == len(self._held):
                held = bytes(self._held)
                self._held.clear()
                self._wanted = self._steps.send(held)

    def _walk(self) -> Generator[int, bytes, None]:
        """Yield how many bytes are wanted next; a negative number: how many are to be passed over."""
        while True:
            self._is_between = True
            start = yield _FRAME_START_BYTES
            self._is_between = False
            if start.startswith(SKIPPABLE_MAGICS):
                size = start[4:] + (yield 3)
                yield -int.from_bytes(size, "little")
                continue
            header = start + (yield zstandard.frame_header_size(start) - len(start))
            is_last = False
            while not is_last:
                block = int.from_bytes((yield 3), "little")
                is_last = bool(block & 1)
                yield -(1 if (block >> 1) & 3 == _RLE else block >> 3)
            if zstandard.get_frame_parameters(header).has_checksum:
                yield -4
