"""A compressed source as decompressed bytes by offset: reads from the beginning, skips, and checks what comes out."""

from __future__ import annotations

import threading
from collections.abc import Generator

from loader.buffers import MIB, BufferPool
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import Limits
from loader.source.base import RawInfo, RawSource
from loader.source.compression import Compression, Damaged, Decompressor, decompressor
from loader.source.forward_reader import ForwardReader
from loader.source.prefetch import prefetched

# Trips compress 5 to 10 fold. What grows more than this is made to fill the database's disk.
RATIO_LIMIT = 250
# Below it the ratio says nothing: a few rows repeated are a test, not an attack.
RATIO_GRACE_BYTES = 64 * MIB


class Decompression:
    """Goes forward; an offset behind it begins anew. Has a pool of its own: a buffer for each reader, and one in use."""

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
        self._begin()

    @property
    def consumed_bytes(self) -> int:
        """How much of the compressed file was decompressed, from its beginning on."""
        return self._decompressor.consumed_bytes

    def fill(self, offset: int, view: memoryview) -> tuple[int, int]:
        """Fill `view` with the decompressed bytes from `offset` on; return how many: fewer only at the end.

        And how many compressed bytes were taken since the last call. Raises LoaderError and SourceClosed.
        """
        if offset < self._reader.position:
            self._chunks.close()
            self._begin()
        count = self._reader.read_at(offset, view)
        self._reader.peek(1)  # if the end is next, its checksum belongs to these bytes
        taken_bytes = self._decompressor.consumed_bytes - self._counted_bytes
        self._counted_bytes += taken_bytes
        return count, taken_bytes

    def _begin(self) -> None:
        self._chunks = self._compressed_chunks()
        self._decompressor = decompressor(self._compression, self._chunks)
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
        if self._produced_bytes > max(RATIO_GRACE_BYTES, RATIO_LIMIT * self._decompressor.consumed_bytes):
            message = f"{self._info.location} grows more than {RATIO_LIMIT} fold when decompressed"
            raise LoaderError(
                FailureCode.SOURCE_CORRUPT, message, "If it is meant, decompress it before the import."
            )
        return count


def unpacked_head(info: RawInfo, compression: Compression, head_bytes: int) -> tuple[bytes, bool]:
    """Return the first decompressed bytes, up to `head_bytes`, and whether that is all. Raises LoaderError."""
    unpacker = decompressor(compression, iter([memoryview(info.head)]))
    view = memoryview(bytearray(head_bytes + 1))  # one more, to know whether that is all
    count = _decompress(unpacker, view, info.location)
    is_whole = count < len(view) and info.head_is_whole
    if is_whole:
        _check_end(unpacker, info.location)
    return bytes(view[: min(count, head_bytes)]), is_whole


def _decompress(unpacker: Decompressor, view: memoryview, location: str) -> int:
    try:
        return unpacker.readinto(view)
    except Damaged as error:
        message = f"{location} is damaged, at about byte {unpacker.consumed_bytes:,} as compressed: {error}"
        hint = "Get the file anew; gzip --test or zstd --test tell whether a copy is whole."
        raise LoaderError(FailureCode.SOURCE_CORRUPT, message, hint) from error


def _check_end(unpacker: Decompressor, location: str) -> None:
    if not unpacker.is_complete:
        message = f"{location} ends in the middle of its compressed data"
        raise LoaderError(
            FailureCode.SOURCE_TRUNCATED, message, "Its upload may not be finished; else get it anew."
        )
