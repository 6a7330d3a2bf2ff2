"""Blocks of any bytes, encoded by the encoder and, as its reference, row by row by `rows.py`."""

from __future__ import annotations

import io
import os

import msgspec

from loader.buffers import SLACK_BYTES, Buffer
from loader.cli.sample import COLUMN_COUNT, write_sample
from loader.encoding.blocks import Block
from loader.encoding.encoder import OUTPUT_BYTES, Encoder
from loader.encoding.rows import Fault, encode_row, reject_of
from loader.rejects import Reject
from loader.schema import COLUMNS
from tests.support.boundary_values import USUAL_FIELDS

# The kernel runs as plain Python, thousands of times slower: tests do less.
INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT") == "1"
FIRST_LINE = 1_000
BYTE_OFFSET = 5_000_000_000
_buffer = Buffer()


class Encoded(msgspec.Struct):
    """A block's tuples, their number, and its rejects."""

    payload: bytes
    rows: int
    rejects: list[Reject]


def block_of(data: bytes, behind: bytes = b"") -> Block:
    """Return a block whose slack ends with the buffer. The slack starts with `behind`, which must not be encoded."""
    end = len(_buffer.view) - SLACK_BYTES
    start = end - len(data)
    _buffer.view[start:end] = data
    _buffer.view[end:] = behind[:SLACK_BYTES].ljust(SLACK_BYTES, b"7")
    lines, records = data.count(b"\n"), len(records_of(data))
    return Block(_buffer, start, end, BYTE_OFFSET, FIRST_LINE, lines, records, len(data))


def encode(
    data: bytes, column_count: int, output_bytes: int = OUTPUT_BYTES, behind: bytes = b""
) -> tuple[Encoded, int]:
    """Return a block as the encoder encodes it, and how many of its rows `rows.py` encoded."""
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
    """Return the same block as `rows.py` encodes it; it starts at this line and byte."""
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
    """Return records with their line ends. A newline ends a record if the number of quotes before it is even."""
    records = [b""]
    for line in io.BytesIO(data):
        records[-1] += line
        if records[-1].count(b'"') % 2 == 0:
            records.append(b"")
    return [record for record in records if record]


def sample_rows(count: int, column_count: int = COLUMN_COUNT, seed: int = 1) -> list[bytes]:
    """Return rows like those of January 2024, without line ends. Columns that these lack are usual fields and nulls."""
    out = io.BytesIO()
    write_sample(out, count, seed)
    added = [USUAL_FIELDS[column.kind] for column in COLUMNS[COLUMN_COUNT:column_count]]
    return [
        b",".join([row, *(field if number % 3 else b"" for field in added)])
        for number, row in enumerate(out.getvalue().splitlines()[1:])
    ]
