"""Bytes to blocks: cuts the ordered bytes of the file where a record ends, and counts its lines. Pure."""

from __future__ import annotations

import msgspec

from loader.buffers import Buffer


class Block(msgspec.Struct, frozen=True):
    """Whole records: `buffer.view[start:end]`, with SLACK_BYTES readable behind `end`."""

    buffer: Buffer
    start: int
    end: int
    byte_offset: int  # in the (decompressed) file, of the byte at `start`
    first_line: int  # physical line of the file at `start`; the header is line 1
    line_count: int  # line ends in the block, those within quotes too; one more for an unended last line
    source_bytes: int  # what it took of the source as transferred
