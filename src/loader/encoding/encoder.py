"""Blocks to binary COPY payload and rejects: the kernel encodes nearly all rows, `rows.py` those that it declines."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from loader.encoding.blocks import Block
from loader.encoding.rows import Fault, encode_row, reject_of, without_line_end
from loader.encoding.zones import DroppedZone, find_zone
from loader.kernel.constants import ENDED, FULL, NEWLINE
from loader.kernel.load import load_kernel
from loader.rejects import Reject
from loader.schema import COLUMNS

# Signature, flags, length of the header's extension; and a field count of -1:
# https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT
COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(4) + bytes(4)
COPY_TRAILER = b"\xff\xff"

# Of one payload, about. The kernel is as fast with 64 KiB as with 4 MiB; at this size the cost of waking the consumer is
# negligible.
OUTPUT_BYTES = 1 << 20
# Bounds the memory that a block of bad rows takes.
REJECTS_PER_CHUNK = 1_000


class Chunk(msgspec.Struct):
    """Consecutive rows of a block, encoded."""

    payload: (
        memoryview  # binary COPY tuples, without header and trailer; valid until the next chunk is requested
    )
    rows: int  # tuples in the payload
    rejects: list[Reject]  # in the file's order


class Encoder:
    """One worker's encoder. All its chunks share one output buffer."""

    def __init__(self, column_count: int, output_bytes: int = OUTPUT_BYTES) -> None:
        self.rows_in_python = 0  # rows that the kernel has declined, of all blocks
        self.zone: DroppedZone | None = None  # the first one of its blocks
        self._column_count = column_count
        self._kernel = load_kernel()
        self._kinds = memoryview(bytearray(column.kind for column in COLUMNS[:column_count]))
        self._output = memoryview(bytearray(output_bytes))
        self._start_chunk()

    def encode(self, block: Block) -> Iterator[Chunk]:
        """Yield all rows and rejects of a block, in the file's order."""
        source = block.buffer.view
        end = _end_of_lines(block)
        position, line = block.start, block.first_line
        self._start_chunk()
        while position < block.end:
            position, self._written, rows, status = self._kernel.encode_rows(
                source, position, end, self._output, self._written, self._kinds
            )
            self._rows += rows
            line += rows
            if (status == FULL and self._rows > 0) or len(self._rejects) >= REJECTS_PER_CHUNK:
                yield self._end_chunk()
            elif status != ENDED:  # declined, or too long for an empty output
                record = bytes(source[position : self._kernel.record_end(source, position, block.end)])
                yield from self._encode_in_python(record, line, block.byte_offset + position - block.start)
                position += len(record)
                line += record.count(b"\n")
        if self._rows > 0 or self._rejects:
            yield self._end_chunk()

    def _encode_in_python(self, record: bytes, line: int, byte_offset: int) -> Iterator[Chunk]:
        self.rows_in_python += 1
        original = without_line_end(record)
        row = encode_row(original, self._column_count)
        if isinstance(row, Fault):
            self._rejects.append(reject_of(row, original, line, byte_offset))
            return
        if self.zone is None:  # only declined rows have one
            self.zone = find_zone(original, self._column_count, line)
        if len(row) > len(self._output) - self._written:
            yield self._end_chunk()
        if len(row) > len(self._output):
            yield Chunk(memoryview(row), 1, [])
            return
        end = self._written + len(row)
        self._output[self._written : end] = row
        self._written = end
        self._rows += 1

    def _start_chunk(self) -> None:
        self._written = 0
        self._rows = 0
        self._rejects: list[Reject] = []

    def _end_chunk(self) -> Chunk:
        chunk = Chunk(self._output[: self._written], self._rows, self._rejects)
        self._start_chunk()
        return chunk


def _end_of_lines(block: Block) -> int:
    r"""Return where the last line of a block ends. Where it has no line end, write one behind it, into the slack.

    The line end is \r\n: with \n alone, a last line that ends in \r would be read as one that ends in \r\n.
    """
    view = block.buffer.view
    if block.end == block.start or view[block.end - 1] == NEWLINE:
        return block.end
    view[block.end : block.end + 2] = b"\r\n"
    return block.end + 2
