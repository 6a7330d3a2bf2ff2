"""Blocks made of bytes, and what `rows.py` makes of them: to hold the encoder against."""

from __future__ import annotations

import io
import os

import msgspec

from loader.buffers import SLACK_BYTES, Buffer
from loader.cli.sample import write_sample
from loader.encoding.blocks import Block
from loader.encoding.encoder import OUTPUT_BYTES, Encoder
from loader.encoding.rows import Fault, encode_row, reject_of
from loader.rejects import Reject

# Then the kernel is the same source, but thousands of times slower: less of everything.
INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT") == "1"
FIRST_LINE = 1_000
BYTE_OFFSET = 5_000_000_000
FEES = [b",0.0", b",1.5", b",", b",4.5"]
_buffer = Buffer()


class Encoded(msgspec.Struct):
    """What became of a block: its tuples, their number, its rejects."""

    payload: bytes
    rows: int
    rejects: list[Reject]


def block_of(data: bytes, behind: bytes = b"") -> Block:
    """A block whose slack ends with the buffer; `behind` stands in the slack, where the kernel may look but not take."""
    end = len(_buffer.view) - SLACK_BYTES
    start = end - len(data)
    _buffer.view[start:end] = data
    _buffer.view[end:] = behind[:SLACK_BYTES].ljust(SLACK_BYTES, b"7")
    lines, records = data.count(b"\n"), len(records_of(data))
    return Block(_buffer, start, end, BYTE_OFFSET, FIRST_LINE, lines, records, len(data))


def encode(
    data: bytes, column_count: int, output_bytes: int = OUTPUT_BYTES, behind: bytes = b""
) -> tuple[Encoded, int]:
    """What the encoder makes of a block, and how many of its rows went through `rows.py`."""
    encoder = Encoder(column_count, output_bytes)
    encoded = Encoded(b"", 0, [])
    for chunk in encoder.encode(block_of(data, behind)):
        encoded.payload += chunk.payload
        encoded.rows += chunk.rows
        encoded.rejects += chunk.rejects
    return encoded, encoder.rows_in_python


def encode_row_by_row(
    data: bytes, column_count: int, line: int = FIRST_LINE, byte_offset: int = BYTE_OFFSET
) -> Encoded:
    """What `rows.py` makes of the same block, which begins at this line and byte."""
    encoded = Encoded(b"", 0, [])
    position = 0
    for record in records_of(data):
        original = record.removesuffix(b"\n")
        if record.endswith(b"\r\n"):
            original = record.removesuffix(b"\r\n")
        row = encode_row(original, column_count)
        if isinstance(row, Fault):
            encoded.rejects.append(reject_of(row, original, line, byte_offset + position))
        else:
            encoded.payload += row
            encoded.rows += 1
        position += len(record)
        line += record.count(b"\n")
    return encoded


def records_of(data: bytes) -> list[bytes]:
    """Records with their line ends: a newline ends one where the quotes before it are even in number."""
    records = [b""]
    for line in io.BytesIO(data):
        records[-1] += line
        if records[-1].count(b'"') % 2 == 0:
            records.append(b"")
    return [record for record in records if record]


def sample_rows(count: int, column_count: int = 24, seed: int = 1) -> list[bytes]:
    """Rows like those of January 2024, without line ends; those of 25 columns have a congestion fee."""
    out = io.BytesIO()
    write_sample(out, count, seed)
    rows = out.getvalue().splitlines()[1:]
    if column_count == 24:
        return rows
    return [row + FEES[number % len(FEES)] for number, row in enumerate(rows)]
