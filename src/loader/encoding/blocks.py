"""Segments to blocks: cuts the ordered bytes of the file behind records, and counts lines and records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from loader.buffers import Buffer, Segment
from loader.contract import FailureCode
from loader.encoding.rows import field_end
from loader.errors import LoaderError
from loader.kernel.load import load_kernel
from loader.schema import COLUMNS
from loader.text import value_text


class Block(msgspec.Struct, frozen=True):
    """Whole records: `buffer.view[start:end]`. SLACK_BYTES behind `end` can be read and written, too."""

    buffer: Buffer
    start: int
    end: int
    byte_offset: int  # of the byte at `start`, in the decompressed file
    first_line: int  # physical line at `start`; the header is line 1
    line_count: int  # line ends, including those within quotes, and a last line that has none
    record_count: int  # line ends outside quotes, and a last record that has none
    source_bytes: int  # bytes of the source, as transferred, since the block before


def cut(segments: Iterable[Segment], first_line: int, release: Callable[[Buffer], None]) -> Iterator[Block]:
    """Yield the blocks of consecutive segments, the first of which starts with a record.

    `first_line` is the physical line where they start. The bytes behind the last record of a segment are copied to the
    room before the next segment. The consumer releases the buffers of blocks; `release` gets the buffers of segments in
    which no record ends. Raises RECORD_TOO_LONG where a record does not fit into a buffer.
    """
    kernel = load_kernel()
    rest = b""
    byte_offset = 0
    source_bytes = 0
    for segment in segments:
        buffer, start = segment.buffer, segment.start - len(rest)
        buffer.view[start : segment.start] = rest
        byte_offset = segment.byte_offset - len(rest)
        source_bytes += segment.source_bytes
        length, line_count, record_count = kernel.find_cut(buffer.view[start : segment.end])
        rest = bytes(buffer.view[start + length : segment.end])
        if len(rest) > buffer.segment_bytes:  # longer than a segment: no record ends in this one
            raise _record_too_long(rest, buffer.segment_bytes, byte_offset, first_line)
        if length == 0:
            release(buffer)
            continue
        yield Block(
            buffer, start, start + length, byte_offset, first_line, line_count, record_count, source_bytes
        )
        first_line += line_count
        byte_offset += length
        source_bytes = 0
    if rest:
        yield _unterminated(rest, byte_offset, first_line, source_bytes)


def _unterminated(rest: bytes, byte_offset: int, first_line: int, source_bytes: int) -> Block:
    """Return the last block of a file that does not end in a newline outside quotes: one record, good or bad."""
    buffer = Buffer(len(rest))
    start, end = len(rest), 2 * len(rest)
    buffer.view[start:end] = rest
    line_count = rest.count(b"\n") + (not rest.endswith(b"\n"))
    return Block(buffer, start, end, byte_offset, first_line, line_count, 1, source_bytes)


def _record_too_long(beginning: bytes, limit_bytes: int, byte_offset: int, line: int) -> LoaderError:
    column, value = unfinished_field(beginning)
    where = f"line {line:,}, byte {byte_offset:,}" + (f", column {column}" if column else "")
    return LoaderError(
        FailureCode.RECORD_TOO_LONG,
        f"A record is longer than {limit_bytes:,} bytes ({where}).",
        "Look at that line: usually a quote is opened and never closed.",
        line=line,
        byte_offset=byte_offset,
        column=column,
        value=value,
    )


def unfinished_field(beginning: bytes) -> tuple[str | None, str]:
    """Return the column and the first bytes of the field in which the beginning of a record ends.

    If that is behind the last column, return None and the first bytes of the record.
    """
    start = 0
    for column in COLUMNS:
        end = field_end(beginning, start)
        if end == len(beginning):
            return column.name, value_text(beginning[start:])
        start = end + 1
    return None, value_text(beginning)
