"""How many rows may be set aside: exactly what --max-rejects says."""

from __future__ import annotations

import pytest

from loader.errors import LoaderError
from loader.rejection import RejectCount, parse_allowance, refuse_too_many
from loader.rejects import Reason, Reject
from loader.wire import FailureCode

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


def test_the_first_bad_row_of_a_strict_import_is_told_with_its_place() -> None:
    with pytest.raises(LoaderError) as caught:
        RejectCount(parse_allowance("0"), 0, None).add(rejects(1), END)
    failure = caught.value.failure
    assert failure.code is FailureCode.BAD_ROW
    assert (failure.line, failure.byte_offset, failure.column, failure.value) == (2, 20, "tolls", "x")


def test_a_count_is_exact_and_includes_earlier_attempts() -> None:
    count = RejectCount(parse_allowance("5"), 2, None)
    count.add(rejects(3), END)
    with pytest.raises(LoaderError) as caught:
        count.add(rejects(1), END)
    assert caught.value.code is FailureCode.TOO_MANY_REJECTS


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


def test_a_percentage_ends_an_import_early_only_when_no_rest_of_the_file_could_save_it() -> None:
    # Eleven empty lines and 98 rows of 24 bytes, or one more without line end: of 110 records 11 may be rejects.
    count = RejectCount(parse_allowance("10%"), 0, data_bytes=11 + 98 * 24)
    count.add(rejects(11), END)
    with pytest.raises(LoaderError):
        count.add(rejects(1), END)
    endless = RejectCount(parse_allowance("10%"), 0, data_bytes=None)
    endless.add(rejects(1000), END)


def test_every_line_may_be_empty_when_all_rows_may_be_rejected() -> None:
    RejectCount(parse_allowance("100%"), 0, data_bytes=1000).add(rejects(1000), END)


def test_all_rows_may_be_rejected_when_that_is_said() -> None:
    refuse_too_many(parse_allowance("100%"), 7, 7, rejects(1)[0])


@pytest.mark.parametrize("reason", [Reason.FIELD_COUNT, Reason.QUOTE])
@pytest.mark.parametrize("allowed", ["0", "5", "100%"])
def test_a_last_record_that_is_cut_off_is_a_truncation_however_many_may_be_rejected(
    reason: Reason, allowed: str
) -> None:
    cut_off = Reject(9, 100, None, "HV0003,B034", reason, b"HV0003,B034")
    with pytest.raises(LoaderError) as caught:
        RejectCount(parse_allowance(allowed), 0, None).add([cut_off], 111)
    failure = caught.value.failure
    assert (failure.code, failure.line, failure.byte_offset) == (FailureCode.SOURCE_TRUNCATED, 9, 100)
    assert failure.value == "HV0003,B034"


def test_a_last_record_with_a_line_end_or_all_its_fields_is_a_reject_like_any_other() -> None:
    count = RejectCount(parse_allowance("2"), 0, None)
    count.add([Reject(9, 100, None, "HV0003,B034", Reason.FIELD_COUNT, b"HV0003,B034")], 112)
    count.add([Reject(9, 100, "tolls", "x", Reason.DOUBLE_SYNTAX, b"row")], 103)
    assert count.rejects == 2
