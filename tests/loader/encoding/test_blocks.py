"""Blocks join to the whole file, whatever the cut points, quotes and line ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.buffers import SEGMENT_BYTES, Buffer, Segment
from loader.contract import FailureCode
from loader.encoding.blocks import Block, cut, unfinished_field
from loader.errors import LoaderError
from loader.schema import COLUMNS
from loader.text import VALUE_CHARACTERS

_BUFFERS = [Buffer() for _ in range(24)]


def segments_of(data: bytes, cuts: Sequence[int], offset: int = 0) -> Iterator[Segment]:
    """Yield data in pieces, each in its own buffer; they start at an offset in the file."""
    starts = [0, *cuts]
    ends = [*cuts, len(data)]
    for buffer, start, end in zip(_BUFFERS, starts, ends, strict=False):
        if start < end:
            buffer.view[SEGMENT_BYTES : SEGMENT_BYTES + end - start] = data[start:end]
            yield Segment(buffer, SEGMENT_BYTES, SEGMENT_BYTES + end - start, offset + start, end - start)


def content(block: Block) -> bytes:
    return bytes(block.buffer.view[block.start : block.end])


def records(data: bytes) -> list[bytes]:
    """Split at newlines outside quotes, byte by byte."""
    found: list[bytes] = []
    start, quoted = 0, False
    for index, byte in enumerate(data):
        quoted ^= byte == ord('"')
        if byte == ord("\n") and not quoted:
            found.append(data[start : index + 1])
            start = index + 1
    return found + ([data[start:]] if start < len(data) else [])


texts = st.lists(st.sampled_from([b"a", b",", b'"', b"\n", b"\r\n", b'"x\n"', b"bb,\n"]), max_size=40).map(
    b"".join
)


@given(texts, st.lists(st.integers(0, 120), max_size=20), st.integers(2, 5), st.integers(0, 5))
def test_blocks_join_to_the_file_and_end_behind_the_last_record_of_a_segment(
    data: bytes, cuts: list[int], first_line: int, offset: int
) -> None:
    points = sorted(point for point in set(cuts) if point <= len(data))
    released: list[Buffer] = []
    seen = b""
    line = first_line
    ends: list[int] = []
    source_bytes = 0
    for block in cut(segments_of(data, points, offset), first_line, released.append):
        assert block.byte_offset == offset + len(seen)
        assert block.first_line == line
        seen += content(block)
        line += block.line_count
        ends.append(len(seen))
        source_bytes += block.source_bytes
        newlines = content(block).count(b"\n")
        assert block.line_count == newlines + (not content(block).endswith(b"\n"))
        assert block.record_count == len(records(content(block)))
    assert seen == data
    assert source_bytes == len(data)
    record_ends = [0, *accumulate(map(len, records(data + b"x")[:-1]))]  # not that of an unended last one
    last_ends = {max(end for end in record_ends if end <= point) for point in [*points, len(data)]}
    assert set(ends) == (last_ends | {len(data)}) - {0}


def test_every_buffer_is_either_in_a_block_or_released() -> None:
    data = b"abc,\ndef" * 3 + b"ghi"
    segments = list(segments_of(data, [2, 4, 5, 20]))
    released: list[Buffer] = []
    blocks = list(cut(segments, 2, released.append))
    kept = [block.buffer for block in blocks[:-1]]  # an unterminated last record has its own buffer
    assert {id(segment.buffer) for segment in segments} == {id(buffer) for buffer in kept + released}


@pytest.mark.parametrize(
    ("filling", "column", "where"),
    [(b"x", "hvfhs_license_num", "line 3, byte 4, column hvfhs_license_num"), (b",", None, "line 3, byte 4")],
)
def test_a_record_longer_than_a_block_is_an_error_with_its_place(
    filling: bytes, column: str | None, where: str
) -> None:
    head = b"a,b\n"
    pieces = [head + filling * (SEGMENT_BYTES - 4), *[filling * SEGMENT_BYTES] * 2]

    def segments() -> Iterator[Segment]:
        offset = 0
        for piece in pieces:
            buffer = Buffer()
            buffer.view[SEGMENT_BYTES : SEGMENT_BYTES + len(piece)] = piece
            yield Segment(buffer, SEGMENT_BYTES, SEGMENT_BYTES + len(piece), offset, len(piece))
            offset += len(piece)

    with pytest.raises(LoaderError) as caught:
        list(cut(segments(), 2, lambda _buffer: None))
    failure = caught.value.failure
    assert (failure.code, failure.line, failure.byte_offset) == (FailureCode.RECORD_TOO_LONG, 3, len(head))
    assert (failure.column, failure.value) == (column, filling.decode() * VALUE_CHARACTERS + "…")
    assert failure.message == f"A record is longer than {SEGMENT_BYTES:,} bytes ({where})."


@pytest.mark.parametrize(
    ("beginning", "column", "value"),
    [
        (b"xxx", "hvfhs_license_num", "xxx"),
        (b"HV0003,", "dispatching_base_num", ""),
        (b'HV0003,"B,03"",404",\xff\0', "originating_base_num", r"\xff\x00"),
        (b'HV0003,B"03404,2024\n', "dispatching_base_num", 'B"03404,2024\n'),
        (b"," * (len(COLUMNS) - 1), COLUMNS[-1].name, ""),
        (b"," * len(COLUMNS), None, "," * len(COLUMNS)),
    ],
)
def test_a_record_that_is_too_long_is_reported_with_its_unfinished_field(
    beginning: bytes, column: str | None, value: str
) -> None:
    assert unfinished_field(beginning) == (column, value)


def test_a_record_as_long_as_a_segment_and_its_line_end_is_no_error() -> None:
    data = b"x" * SEGMENT_BYTES + b"\nb\n"
    buffers = [Buffer(), Buffer()]
    first, second = data[:SEGMENT_BYTES], data[SEGMENT_BYTES:]
    for buffer, piece in zip(buffers, (first, second), strict=True):
        buffer.view[SEGMENT_BYTES : SEGMENT_BYTES + len(piece)] = piece
    segments = [
        Segment(buffers[0], SEGMENT_BYTES, SEGMENT_BYTES + len(first), 0, len(first)),
        Segment(buffers[1], SEGMENT_BYTES, SEGMENT_BYTES + len(second), len(first), len(second)),
    ]
    blocks = list(cut(segments, 2, lambda _buffer: None))
    assert b"".join(map(content, blocks)) == data
