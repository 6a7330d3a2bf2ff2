"""gzip and zstd, detected by their first bytes: decompressors that fill buffers and detect a truncated end.

Both release the GIL. Neither returns more than the buffer holds, whatever its input claims.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal, Protocol, cast

import zstandard

from loader.source.zstd_frames import SKIPPABLE_MAGICS, ZSTD_MAGIC, FrameScanner

Compression = Literal["gzip", "zstd"]
# The third byte is the only compression method of RFC 1952, 2.3.1.
_GZIP_MAGIC = b"\x1f\x8b\x08"
# zlib copies the input that it has not consumed; with small pieces that costs nothing to speak of.
_GZIP_PIECE_BYTES = 64 * 1024
# The memory that a frame may require: the default limit of the zstd program, and what `zstd -22` needs.
_ZSTD_WINDOW_BYTES = 128 * 1024 * 1024


class CorruptData(Exception):
    """The bytes violate their format."""


class Decompressor(Protocol):
    """Decompresses the chunks of one file. A chunk is not read again after the next one is taken."""

    @property
    def consumed_bytes(self) -> int:
        """How many bytes of the compressed input were consumed."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether a compressed file may end here."""
        ...

    def readinto(self, view: memoryview) -> int:
        """Fill `view`; return how many bytes: fewer only after the last chunk. Raises CorruptData."""
        ...


class GzipDecompressor:
    """Any number of consecutive members; zeros behind a member are padding."""

    def __init__(self, chunks: Iterator[memoryview], piece_bytes: int = _GZIP_PIECE_BYTES) -> None:
        self._pieces = (
            chunk[start : start + piece_bytes]
            for chunk in chunks
            for start in range(0, len(chunk), piece_bytes)
        )
        self._piece: memoryview | bytes = b""  # what is left of it
        self._taken_bytes = 0
        self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self.is_complete = True

    @property
    def consumed_bytes(self) -> int:
        """See Decompressor."""
        return self._taken_bytes - len(self._piece)

    def readinto(self, view: memoryview) -> int:
        """See Decompressor."""
        filled = 0
        while filled < len(view):
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._piece = piece
                self._taken_bytes += len(piece)
            if self.is_complete and not self._start_member():
                continue
            filled += self._decompress(view[filled:])
        return filled

    def _start_member(self) -> bool:
        self._piece = bytes(self._piece).lstrip(b"\0")
        if self._piece:
            self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            self.is_complete = False
        return bool(self._piece)

    def _decompress(self, view: memoryview) -> int:
        try:
            output = self._member.decompress(self._piece, len(view))
        except zlib.error as error:
            raise CorruptData(str(error)) from error
        view[: len(output)] = output
        self.is_complete = self._member.eof
        self._piece = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return len(output)


class _StreamReader(Protocol):
    def readinto(self, view: memoryview, /) -> int: ...


class _ZstdInput:
    """The input of libzstd's stream reader."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")  # what is left of it
        self.scanner = FrameScanner()
        self.consumed_bytes = 0

    def read(self, size: int) -> bytes:
        if not self._chunk:
            self._chunk = next(self._chunks, memoryview(b""))
        piece = bytes(self._chunk[:size])
        self._chunk = self._chunk[size:]
        self.scanner.feed(piece)
        self.consumed_bytes += len(piece)
        return piece


class ZstdDecompressor:
    """Any number of consecutive frames, including skippable ones."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._input = _ZstdInput(chunks)
        libzstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        source = cast("BinaryIO", self._input)  # only `read` is called
        self._reader: _StreamReader = libzstd.stream_reader(source, read_across_frames=True)

    @property
    def consumed_bytes(self) -> int:
        """See Decompressor."""
        return self._input.consumed_bytes

    @property
    def is_complete(self) -> bool:
        """See Decompressor."""
        return self._input.scanner.is_between_frames

    def readinto(self, view: memoryview) -> int:
        """See Decompressor."""
        filled = 0
        try:
            while filled < len(view) and (count := self._reader.readinto(view[filled:])):
                filled += count
        except zstandard.ZstdError as error:
            raise CorruptData(str(error)) from error
        return filled


def compression_of(head: bytes) -> Compression | None:
    """Detect the format by the first bytes of a file; None: not compressed."""
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head.startswith((ZSTD_MAGIC, *SKIPPABLE_MAGICS)):
        return "zstd"
    return None


def open_decompressor(compression: Compression, chunks: Iterator[memoryview]) -> Decompressor:
    """Return the format's decompressor."""
    return GzipDecompressor(chunks) if compression == "gzip" else ZstdDecompressor(chunks)
