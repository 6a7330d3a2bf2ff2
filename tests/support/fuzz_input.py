"""Fuzzed inputs: a file, and how it is cut and encoded; and the check that each of them must pass."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path

from loader.buffers import SEGMENT_BYTES, Buffer, Segment
from loader.encoding.blocks import cut
from loader.encoding.encoder import Encoder
from loader.encoding.header import first_records, read_header
from loader.encoding.rows import without_line_end
from loader.errors import LoaderError
from loader.schema import LAYOUT_COLUMN_COUNTS
from tests.support.encoding import Encoded, encode_row_by_row, records_of
from tests.support.mutation import HEADER

CORPUS = Path(__file__).with_name("fuzz_corpus.txt")
_BUFFERS = [Buffer() for _ in range(8)]
_FIRST_LINE = 2
_OUTPUT_BYTES = (1, 400, 1_000, 1 << 16)


def corpus() -> list[bytes]:
    """Return the inputs of fuzz_corpus.txt, a line of base64 each, which take every branch that fuzzing has found."""
    return [base64.b64decode(line) for line in CORPUS.read_text().splitlines()]


def check_input(data: bytes) -> None:
    """Cut and encode a file, and assert that the result is that of `rows.py`, row by row.

    The first byte chooses the layout and the output size, the next three bytes the cuts.
    """
    how, cuts, file = data[:1] or b"\0", data[1:4], data[4:]
    column_count = LAYOUT_COLUMN_COUNTS[how[0] % len(LAYOUT_COLUMN_COUNTS)]
    encoder = Encoder(column_count, _OUTPUT_BYTES[how[0] // 2 % 4])
    encoded = Encoded(b"", 0, [])
    for block in cut(
        _segments(file, sorted({len(file) * each // 256 for each in cuts})), _FIRST_LINE, _ignore
    ):
        for chunk in encoder.encode(block):
            encoded.payload += chunk.payload
            encoded.rows += chunk.rows
            encoded.rejects += chunk.rejects
    assert encoded == encode_row_by_row(file, column_count, _FIRST_LINE, 0)
    with contextlib.suppress(LoaderError):
        read_header(file, is_whole=how[0] // 8 % 2 == 0)
    _check_probe(file)


def _check_probe(file: bytes) -> None:
    """Assert that the probe finds the same records."""
    if file:
        header = read_header(HEADER + file, is_whole=True)
        found = list(first_records(HEADER + file, header, is_whole=True))
        assert b"".join(record for _, record in found) == b"".join(map(without_line_end, records_of(file)))


def _segments(file: bytes, cuts: list[int]) -> Iterator[Segment]:
    for buffer, start, end in zip(_BUFFERS, [0, *cuts], [*cuts, len(file)], strict=False):
        if start < end:
            stop = SEGMENT_BYTES + end - start
            buffer.view[SEGMENT_BYTES:stop] = file[start:end]
            yield Segment(buffer, SEGMENT_BYTES, stop, start, end - start)


def _ignore(_: Buffer) -> None:
    """Drop a buffer in which no record ends."""
