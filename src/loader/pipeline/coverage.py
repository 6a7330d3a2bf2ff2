"""Which bytes of the file are loaded: the missing blocks, and the check that none is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from loader.buffers import BufferPool
from loader.encoding.blocks import Block, cut
from loader.postgres.ledger import Span
from loader.source.open import Source

# The header is one physical line.
_FIRST_DATA_LINE = 2


class Gap(msgspec.Struct, frozen=True):
    """Bytes that no block covers. `end` None: up to the end of the file, which is not known yet."""

    start: int
    end: int | None


class PendingBlocks:
    """The missing blocks of a file, in order; once they are read, also where its data end."""

    def __init__(
        self,
        source: Source,
        pool: BufferPool,
        committed: Sequence[Span],
        data_start: int,
        data_end: int | None,
    ) -> None:
        """`data_end` None: known once the end of the file has been read."""
        self._source = source
        self._pool = pool
        self._committed = committed
        self._data_start = data_start
        self._data_end = data_end
        self.data_end = committed[-1].end if committed else data_start

    def blocks(self) -> Iterator[Block]:
        """Yield the missing blocks; the consumer releases their buffers. Raises LoaderError, SourceClosed."""
        line = _FIRST_DATA_LINE
        for piece in gaps(self._committed, self._data_start, self._data_end):
            if isinstance(piece, Span):
                line += piece.line_count
                continue
            segments = self._source.segments(piece.start, piece.end, self._pool)
            for block in cut(segments, line, self._pool.release):
                line = block.first_line + block.line_count
                self.data_end = max(self.data_end, block.byte_offset + block.end - block.start)
                yield block


def gaps(blocks: Sequence[Span], data_start: int, data_end: int | None) -> Iterator[Span | Gap]:
    """Yield blocks and the gaps between them in file order, from `data_start` to `data_end`.

    `blocks` are sorted and disjoint. With a known end, the result covers the range exactly once.
    """
    position = data_start
    for block in blocks:
        if block.start > position:
            yield Gap(position, block.start)
        yield block
        position = block.end
    if data_end is None or position < data_end:
        yield Gap(position, data_end)


def coverage_error(blocks: Iterable[Span], data_start: int, data_end: int) -> str | None:
    """Return where sorted blocks do not cover [data_start, data_end) exactly once, or None if they do."""
    position = data_start
    for block in blocks:
        if block.start != position:
            fault = "twice" if block.start < position else "by no block"
            return f"bytes from {min(position, block.start):,} are covered {fault}"
        position = block.end
    if position != data_end:
        return f"blocks end at byte {position:,} and the data at {data_end:,}"
    return None
