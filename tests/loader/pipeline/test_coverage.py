"""Every byte in exactly one block: the gaps that are planned, and the flaws that are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.pipeline.coverage import Gap, coverage_error, gaps
from loader.postgres.ledger import Span


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
def test_a_flaw_says_where_it_is(spans: list[Span], flaw: str) -> None:
    assert coverage_error(spans, 2, 10) == flaw


def test_the_last_gap_is_open_where_the_end_is_not_known() -> None:
    assert list(gaps([Span(5, 9, 1)], 5, None)) == [Span(5, 9, 1), Gap(9, None)]
