"""Where a zstd file may end, by the headers of its frames and blocks (RFC 8878, 3.1).

The stream reader of the zstandard package does not detect a truncated file.
"""

from __future__ import annotations

from collections.abc import Generator

import zstandard

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Sixteen magic numbers, of frames that a decoder skips; parallel compressors start files with one.
SKIPPABLE_MAGICS = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))
_FRAME_START_BYTES = 5  # magic number and descriptor, which determine the length of the header
_RLE = 1  # type of a block that repeats one byte


class FrameScanner:
    """Scans a file's bytes in order, and detects whether they end at the end of a frame."""

    def __init__(self) -> None:
        self._is_between = True
        self._held = bytearray()
        self._steps = self._scan()
        self._wanted = next(self._steps)

    @property
    def is_between_frames(self) -> bool:
        """Whether the bytes so far end at the end of a frame."""
        return self._is_between and not self._held

    def feed(self, data: bytes) -> None:
        """Scan the next bytes. May raise zstandard.ZstdError for bytes that are no frame, as their decoder does."""
        position = 0
        while position < len(data):
            if self._wanted < 0:
                skipped = min(-self._wanted, len(data) - position)
                self._wanted += skipped
                position += skipped
            else:
                taken = data[position : position + self._wanted - len(self._held)]
                self._held += taken
                position += len(taken)
            while self._wanted == len(self._held):
                held = bytes(self._held)
                self._held.clear()
                self._wanted = self._steps.send(held)

    def _scan(self) -> Generator[int, bytes, None]:
        """Yield how many bytes are needed next; a negative number: how many to skip."""
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
