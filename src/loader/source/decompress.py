"""Decompressed bytes of a compressed source by offset: reads from its beginning, skips, and checks the result."""

from __future__ import annotations

import threading
from collections.abc import Generator

from loader.buffers import MIB, BufferPool
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import Limits
from loader.source.base import RawInfo, RawSource
from loader.source.compression import Compression, CorruptData, Decompressor, open_decompressor
from loader.source.forward_reader import ForwardReader
from loader.source.prefetch import prefetched

# Trips compress 5 to 10 fold. A file with a higher ratio is treated as a decompression bomb.
MAX_RATIO = 250
# For smaller outputs the ratio means nothing: a few repeated rows are a test, not an attack.
RATIO_GRACE_BYTES = 64 * MIB


class Decompression:
    """Reads forward; a lower offset restarts it. Its own pool has a buffer for each reading thread, and one in use."""

    def __init__(
        self,
        raw: RawSource,
        info: RawInfo,
        compression: Compression,
        limits: Limits,
        closed: threading.Event,
    ) -> None:
        self._raw = raw
        self._info = info
        self._compression: Compression = compression
        self._closed = closed
        self._pool = BufferPool(raw.parallelism.at_start + 1, limits.segment_bytes)
        self._restart()

    @property
    def consumed_bytes(self) -> int:
        """How many bytes of the compressed file were decompressed, from its beginning on."""
        return self._decompressor.consumed_bytes

    def fill(self, offset: int, view: memoryview) -> tuple[int, int]:
        """Fill `view` with the decompressed bytes from `offset` on; return how many: fewer only at the end.

        Also return how many compressed bytes were consumed since the last call. Raises LoaderError and SourceClosed.
        """
        if offset < self._reader.position:
            self._chunks.close()
            self._restart()
        count = self._reader.read_at(offset, view)
        self._reader.peek(1)  # at the end, this also reads the checksum of these bytes
        taken_bytes = self._decompressor.consumed_bytes - self._counted_bytes
        self._counted_bytes += taken_bytes
        return count, taken_bytes

    def _restart(self) -> None:
        self._chunks = self._compressed_chunks()
        self._decompressor = open_decompressor(self._compression, self._chunks)
        self._reader = ForwardReader(self._readinto, self._info.location)
        self._produced_bytes = 0
        self._counted_bytes = 0

    def _compressed_chunks(self) -> Generator[memoryview, None, None]:
        def fill(offset: int, view: memoryview) -> tuple[int, int]:
            count = self._raw.read_at(offset, view)
            return count, count

        for segment in prefetched(
            fill, 0, self._info.size_bytes, self._pool, self._raw.parallelism, self._closed
        ):
            try:
                yield segment.buffer.view[segment.start : segment.end]
            finally:
                self._pool.release(segment.buffer)

    def _readinto(self, view: memoryview) -> int:
        count = _decompress(self._decompressor, view, self._info.location)
        if count < len(view):
            _check_end(self._decompressor, self._info.location)
        self._produced_bytes += count
        if self._produced_bytes > max(RATIO_GRACE_BYTES, MAX_RATIO * self._decompressor.consumed_bytes):
            message = f"{self._info.location} expands to more than {MAX_RATIO} times its size"
            raise LoaderError(
                FailureCode.SOURCE_CORRUPT,
                message,
                "If this is intended, decompress the file before the import.",
            )
        return count


def decompressed_head(info: RawInfo, compression: Compression, head_bytes: int) -> tuple[bytes, bool]:
    """Return the first decompressed bytes, up to `head_bytes`, and whether they are all. Raises LoaderError."""
    decompressor = open_decompressor(compression, iter([memoryview(info.head)]))
    view = memoryview(bytearray(head_bytes + 1))  # one more byte tells whether the head is all
    count = _decompress(decompressor, view, info.location)
    is_whole = count < len(view) and info.head_is_whole
    if is_whole:
        _check_end(decompressor, info.location)
    return bytes(view[: min(count, head_bytes)]), is_whole


def _decompress(decompressor: Decompressor, view: memoryview, location: str) -> int:
    try:
        return decompressor.readinto(view)
    except CorruptData as error:
        message = f"{location} is corrupt, at about byte {decompressor.consumed_bytes:,} of the compressed file: {error}"
        hint = "Get the file again; gzip --test or zstd --test checks a copy."
        raise LoaderError(FailureCode.SOURCE_CORRUPT, message, hint) from error


def _check_end(decompressor: Decompressor, location: str) -> None:
    if not decompressor.is_complete:
        message = f"{location} ends within its compressed data"
        raise LoaderError(
            FailureCode.SOURCE_TRUNCATED,
            message,
            "Its upload may be unfinished; otherwise get the file again.",
        )
