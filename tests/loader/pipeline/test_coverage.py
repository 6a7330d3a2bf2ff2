"""Every byte is in exactly one block: planned gaps, missing blocks as they are read, and errors of coverage."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.buffers import BufferPool
from loader.encoding.blocks import Block
from loader.pipeline.coverage import Gap, PendingBlocks, coverage_error, gaps
from loader.postgres.ledger import Span
from tests.support.source_reading import opened

HEADER = b"a,b,c\n"
SEGMENT_BYTES = 24  # of a few records, shorter than some

records = st.lists(
    st.sampled_from([b"1,2,3\n", b"4,5,6\r\n", b'"two\nlines",,\n', b'7,"three\r\n\n""lines""",8\n', b"\n"]),
    min_size=1,
    max_size=30,
).map(b"".join)


@st.composite
def cut_ranges(draw: st.DrawFn) -> tuple[list[Span], int, int]:
    """Return consecutive spans over [start, end)."""
    start = draw(st.integers(0, 50))
    lengths = draw(st.lists(st.integers(1, 20), max_size=12))
    spans: list[Span] = []
    position = start
    for length in lengths:
        spans.append(Span(position, position + length, 1))
        position += length
    return spans, start, position


@given(cut_ranges(), st.data())
def test_blocks_and_gaps_together_cover_the_data_exactly_once(
    whole: tuple[list[Span], int, int], data: st.DataObject
) -> None:
    spans, start, end = whole
    kept = [span for span in spans if data.draw(st.booleans())]
    plan = list(gaps(kept, start, end))
    assert [piece for piece in plan if isinstance(piece, Span)] == kept
    assert all(piece.start < (piece.end or end) for piece in plan)  # no empty gap
    assert coverage_error([Span(piece.start, piece.end or end, 0) for piece in plan], start, end) is None


@given(cut_ranges(), st.data())
def test_a_missing_a_repeated_and_a_shifted_block_are_flaws(
    whole: tuple[list[Span], int, int], data: st.DataObject
) -> None:
    spans, start, end = whole
    assert coverage_error(spans, start, end) is None
    if spans:
        index = data.draw(st.integers(0, len(spans) - 1))
        victim = spans[index]
        assert coverage_error(spans[:index] + spans[index + 1 :], start, end) is not None
        assert coverage_error([*spans[: index + 1], victim, *spans[index + 1 :]], start, end) is not None
        shifted = Span(victim.start, victim.end + 1, 0)
        assert coverage_error([*spans[:index], shifted, *spans[index + 1 :]], start, end) is not None


@pytest.mark.parametrize(
    ("spans", "flaw"),
    [
        ([Span(2, 5, 1), Span(8, 10, 1)], "bytes from 5 are covered by no block"),
        ([Span(2, 5, 1), Span(4, 10, 1)], "bytes from 4 are covered twice"),
        ([Span(1, 10, 1)], "bytes from 1 are covered twice"),
        ([Span(2, 9, 1)], "blocks end at byte 9 and the data at 10"),
        ([], "blocks end at byte 2 and the data at 10"),
    ],
)
def test_a_coverage_error_says_where_it_is(spans: list[Span], flaw: str) -> None:
    assert coverage_error(spans, 2, 10) == flaw


def test_the_last_gap_is_open_where_the_end_is_not_known() -> None:
    assert list(gaps([Span(5, 9, 1)], 5, None)) == [Span(5, 9, 1), Gap(9, None)]


def read_missing(
    path: Path, committed: list[Span], data_end: int | None
) -> tuple[list[tuple[Block, bytes]], int]:
    """Return the missing blocks with their bytes, and where the data end."""
    with opened(str(path)) as source:
        source.probe()
        pool = BufferPool(3, SEGMENT_BYTES)
        pending = PendingBlocks(source, pool, committed, len(HEADER), data_end)
        found: list[tuple[Block, bytes]] = []
        for block in pending.blocks():
            found.append((block, bytes(block.buffer.view[block.start : block.end])))
            pool.release(block.buffer)
        return found, pending.data_end


def span(block: Block, content: bytes) -> Span:
    return Span(block.byte_offset, block.byte_offset + len(content), block.line_count)


@given(records, st.booleans(), st.booleans(), st.data())
def test_missing_blocks_have_the_right_offsets_and_lines(
    tmp_path_factory: pytest.TempPathFactory,
    records: bytes,
    is_ended: bool,
    is_compressed: bool,
    data: st.DataObject,
) -> None:
    file = HEADER + records + (b"" if is_ended else b'9,"x\ny",0')
    path = tmp_path_factory.getbasetemp() / "trips.csv"
    path.write_bytes(gzip.compress(file) if is_compressed else file)
    data_end = None if is_compressed else len(file)
    first, end = read_missing(path, [], data_end)
    assert end == len(file)
    assert b"".join(content for _, content in first) == file[len(HEADER) :]

    kept = data.draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first)))
    committed = [span(*each) for each in itertools.compress(first, kept)]
    rest, end = read_missing(path, committed, data_end)
    assert end == len(file)
    for block, content in first + rest:
        assert content == file[block.byte_offset : block.byte_offset + len(content)]
        assert block.first_line == 1 + file[: block.byte_offset].count(b"\n")
    spans = sorted(committed + [span(*each) for each in rest])
    assert coverage_error(spans, len(HEADER), len(file)) is None
