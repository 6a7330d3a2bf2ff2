"""Bytes to blocks: cuts the ordered bytes of the file where a record ends, and counts its lines. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from loader.buffers import Buffer, Segment
from loader.contract import FailureCode
from loader.encoding.rows import field_end
from loader.errors import LoaderError, value_text
from loader.kernel.native import load_kernel
from loader.schema import COLUMNS


class Block(msgspec.Struct, frozen=True):
    """Whole records: `buffer.view[start:end]`, with SLACK_BYTES readable behind `end`."""

    buffer: Buffer
    start: int
    end: int
    byte_offset: int  # in the (decompressed) file, of the byte at `start`
    first_line: int  # physical line of the file at `start`; the header is line 1
    line_count: int  # line ends in the block, those within quotes too; one more for an unended last line
    record_count: int  # records in it: line ends outside quotes, and an unended last record
    source_bytes: int  # what it took of the source as transferred


def cut(segments: Iterable[Segment], first_line: int, release: Callable[[Buffer], None]) -> Iterator[Block]:
    """Cut consecutive segments, the first of which starts at a record, into blocks.

    `first_line` is the physical line there. What a segment leaves behind its last record goes, copied, into the
    room before the next segment's data. The taker of a block releases its buffer; `release` gets those of segments
    in which no record ends. Raises RECORD_TOO_LONG where a record does not fit.
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
        yield _unended(rest, byte_offset, first_line, source_bytes)


def _unended(rest: bytes, byte_offset: int, first_line: int, source_bytes: int) -> Block:
    """Return the last block of a file that does not end in a newline; its one record may still be a bad one."""
    buffer = Buffer(len(rest))
    start, end = len(rest), 2 * len(rest)
    buffer.view[start:end] = rest
    line_count = rest.count(b"\n") + (not rest.endswith(b"\n"))
    return Block(buffer, start, end, byte_offset, first_line, line_count, 1, source_bytes)


def _record_too_long(beginning: bytes, limit_bytes: int, byte_offset: int, line: int) -> LoaderError:
    column, value = field_that_goes_on(beginning)
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


def field_that_goes_on(beginning: bytes) -> tuple[str | None, str]:
    """Return the column and the first bytes of the field in which the beginning of a record ends.

    Of a record that goes on beyond its last column: no column, and its first bytes.
    """
    start = 0
    for column in COLUMNS:
        end = field_end(beginning, start)
        if end == len(beginning):
            return column.name, value_text(beginning[start:])
        start = end + 1
    return None, value_text(beginning)
