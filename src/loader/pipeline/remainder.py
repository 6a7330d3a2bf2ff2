"""What an attempt has to read: the gaps between committed blocks, cut into blocks with their lines numbered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loader.buffers import BufferPool
from loader.encoding.blocks import Block, cut
from loader.pipeline.coverage import gaps
from loader.postgres.ledger import Span
from loader.source.open import Source

# The header is one physical line.
_FIRST_DATA_LINE = 2


class PendingBlocks:
    """The missing blocks of a file, in order; once they are read, where its data end."""

    def __init__(
        self,
        source: Source,
        pool: BufferPool,
        committed: Sequence[Span],
        data_start: int,
        data_end: int | None,
    ) -> None:
        """`data_end` None: known when the end of the file has been read."""
        self._source = source
        self._pool = pool
        self._committed = committed
        self._data_start = data_start
        self._data_end = data_end
        self.data_end = committed[-1].end if committed else data_start

    def blocks(self) -> Iterator[Block]:
        """Yield the missing blocks; their buffers go back to the pool. Raises LoaderError, SourceClosed."""
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
