"""The limit on rejected rows: exactly that of --max-rejects."""

from __future__ import annotations

from fractions import Fraction
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.pipeline.reject_limit import Allowance, RejectCount, parse_allowance, refuse_too_many
from loader.rejects import Reason, Reject

# Behind them all.
END = 1_000_000


def rejects(count: int) -> list[Reject]:
    return [
        Reject(line, line * 10, "tolls", "x", Reason.DOUBLE_SYNTAX, b"row") for line in range(2, 2 + count)
    ]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "101%", "-1%", "%", "1/0%", "nan%"])
def test_what_is_neither_a_count_nor_a_percentage_is_a_usage_error(text: str) -> None:
    with pytest.raises(LoaderError) as caught:
        parse_allowance(text)
    assert caught.value.code is FailureCode.USAGE


def test_the_first_bad_row_of_a_strict_import_is_reported_with_its_place() -> None:
    with pytest.raises(LoaderError) as caught:
        RejectCount(parse_allowance("0"), 0, None).add(rejects(1), END)
    failure = caught.value.failure
    assert failure.code is FailureCode.BAD_ROW
    assert (failure.line, failure.byte_offset, failure.column, failure.value) == (2, 20, "tolls", "x")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (Reason.QUOTED_EMPTY, "without quotes"),
        (Reason.ENCODING, "iconv"),
        (Reason.DOUBLE_SYNTAX, "Correct the file,"),
    ],
)
def test_the_hint_of_a_bad_row_says_how_to_correct_it(kind: Reason, advice: str) -> None:
    with pytest.raises(LoaderError) as caught:
        RejectCount(parse_allowance("0"), 0, None).add([Reject(2, 20, "tolls", "", kind, b"row", kind)], END)
    assert advice in caught.value.failure.hint


def test_a_count_is_exact_and_includes_earlier_attempts() -> None:
    counted = RejectCount(parse_allowance("5"), 2, None)
    counted.add(rejects(3), END)
    with pytest.raises(LoaderError) as caught:
        counted.add(rejects(1), END)
    failure = caught.value.failure
    assert failure.code is FailureCode.TOO_MANY_REJECTS
    assert failure.message.startswith("6 rows rejected, 5 allowed;")
    assert failure.message.endswith("(line 2, byte 20, column tolls).")


def test_a_percentage_is_exact_over_the_whole_file() -> None:
    allowance = parse_allowance("0.1%")
    first = rejects(1)[0]
    refuse_too_many(allowance, 10, 10_000, first)
    with pytest.raises(LoaderError):
        refuse_too_many(allowance, 10, 9_999, first)
    with pytest.raises(LoaderError) as caught:
        refuse_too_many(allowance, 11, 10_000, first)
    failure = caught.value.failure
    assert (failure.line, failure.byte_offset, failure.column, failure.value) == (2, 20, "tolls", "x")
    assert failure.message.startswith("11 of 10,000 rows were rejected, 0.1% allowed;")


def test_no_row_may_be_rejected_of_a_percentage_of_nothing() -> None:
    with pytest.raises(LoaderError) as caught:
        RejectCount(parse_allowance("0%"), 0, 1_000_000).add(rejects(1), END)
    assert caught.value.code is FailureCode.TOO_MANY_REJECTS


def test_a_row_that_is_bad_as_a_whole_is_reported_without_a_column() -> None:
    whole = Reject(2, 20, None, "x,y", Reason.FIELD_COUNT, b"x,y\n")
    with pytest.raises(LoaderError) as caught:
        RejectCount(parse_allowance("0"), 0, None).add([whole], END)
    assert caught.value.failure.message.endswith("(line 2, byte 20).")


def most_rows(rejects: int, data_bytes: int) -> int:
    """Return how many rows a file with so many rejects can have: empty lines are rejected, the others have no values."""
    size, rows = rejects * len("\n"), rejects
    while size + 23 <= data_bytes:  # the last row without its line end
        size, rows = size + 24, rows + 1
    return rows


@given(st.integers(1, 1_000), st.fractions(0, 1, max_denominator=1000))
def test_a_percentage_ends_an_import_as_soon_as_no_rest_of_the_file_could_save_it(
    data_bytes: int, share: Fraction
) -> None:
    too_many = next(n for n in count(1) if n > share * most_rows(n, data_bytes) or n > data_bytes)
    counted = RejectCount(Allowance(None, share), 0, data_bytes)
    counted.add(rejects(too_many - 1), END)
    if too_many <= data_bytes:
        with pytest.raises(LoaderError) as caught:
            counted.add(rejects(1), END)
        assert caught.value.code is FailureCode.TOO_MANY_REJECTS


def test_a_percentage_of_a_file_of_unknown_size_is_judged_at_its_end() -> None:
    endless = RejectCount(parse_allowance("10%"), 0, data_bytes=None)
    endless.add(rejects(1000), END)
    assert endless.rejects == 1000


@pytest.mark.parametrize("data_bytes", [None, 1 << 40])
def test_rejects_beyond_a_percentage_of_what_was_read_may_have_64_mebibytes(data_bytes: int | None) -> None:
    large = Reject(2, 20, None, "x", Reason.NUL, bytes(1 << 20))
    count = RejectCount(parse_allowance("50%"), 100, data_bytes, records=200)
    for _ in range(4):
        count.read(200)
        count.add([large] * 100, END)
    count.add([large] * 64, END)  # 564 of 1,000
    with pytest.raises(LoaderError) as caught:
        count.add([large], END)
    assert caught.value.code is FailureCode.TOO_MANY_REJECTS
    assert caught.value.failure.message.startswith("565 rows of 1,000 read so far rejected, 50% allowed")
    count.read(4)  # two of them may be rejects
    count.add([large], END)


def test_all_rows_and_any_count_may_be_rejected_however_large_they_are() -> None:
    large = Reject(2, 20, None, "x", Reason.NUL, bytes(1 << 20))
    all_rows = RejectCount(parse_allowance("100%"), 0, None)
    all_rows.read(200)
    all_rows.add([large] * 200, END)
    RejectCount(parse_allowance("200"), 0, None).add([large] * 200, END)


def test_the_rest_of_a_file_has_room_for_no_more_rows_than_its_rejects_leave() -> None:
    # 100 empty lines and 100 rows of 24 bytes: of at most 201 records 100 may be rejects.
    count = RejectCount(parse_allowance("50%"), 0, data_bytes=100 + 100 * 24)
    count.add(rejects(100), END)
    with pytest.raises(LoaderError):
        count.add(rejects(1), END)


def test_every_line_may_be_empty_when_all_rows_may_be_rejected() -> None:
    RejectCount(parse_allowance("100%"), 0, data_bytes=1000).add(rejects(1000), END)


def test_all_rows_may_be_rejected_with_100_percent() -> None:
    refuse_too_many(parse_allowance("100%"), 7, 7, rejects(1)[0])


@pytest.mark.parametrize("reason", [Reason.FIELD_COUNT, Reason.QUOTE])
@pytest.mark.parametrize("allowed", ["0", "5", "100%"])
def test_a_last_record_that_is_cut_off_is_a_truncation_however_many_may_be_rejected(
    reason: Reason, allowed: str
) -> None:
    cut_off = Reject(9, 100, None, "HV0003,B034", reason, b"HV0003,B034", reason)
    with pytest.raises(LoaderError) as caught:
        RejectCount(parse_allowance(allowed), 0, None).add([cut_off], 111)
    failure = caught.value.failure
    assert (failure.code, failure.line, failure.byte_offset) == (FailureCode.SOURCE_TRUNCATED, 9, 100)
    assert failure.value == "HV0003,B034"


def test_a_last_record_with_a_line_end_or_all_its_fields_is_a_reject_like_any_other() -> None:
    counted = RejectCount(parse_allowance("2"), 0, None)
    reason = Reason.FIELD_COUNT
    counted.add([Reject(9, 100, None, "HV0003,B034", reason, b"HV0003,B034", reason)], 112)
    counted.add([Reject(9, 100, "tolls", "x", Reason.DOUBLE_SYNTAX, b"row")], 103)
    assert counted.rejects == 2
