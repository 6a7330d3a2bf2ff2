"""What a field means: the limits of each kind, and the reasons why values beyond them are rejected."""

from __future__ import annotations

import datetime
import struct

import pytest

from loader.encoding.fields import encode_field
from loader.rejects import Reason
from loader.schema import Kind


def timestamp_of(value: str) -> datetime.datetime:
    encoded = encode_field(Kind.TIMESTAMP, value.encode())
    assert isinstance(encoded, bytes), encoded
    (microseconds,) = struct.unpack(">q", encoded)
    return datetime.datetime(2000, 1, 1) + datetime.timedelta(microseconds=microseconds)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("2024-01-01 00:21:47", "2024-01-01 00:21:47"),
        ("2024-01-01T00:21:47.000000", "2024-01-01 00:21:47"),
        (" 2024-1-5\t1:02 ", "2024-01-05 01:02:00"),
        ("2024-01-05", "2024-01-05 00:00:00"),
        ("0001-01-01 00:00:00.000001", "0001-01-01 00:00:00.000001"),
        ("2024-02-28 24:00:00", "2024-02-29 00:00:00"),
        ("2016-12-31 23:59:60", "2017-01-01 00:00:00"),
        ("2024-01-05 12:30:60.5", "2024-01-05 12:31:00.500000"),
        ("2024-01-05 12:00:00.9999996", "2024-01-05 12:00:01"),
        ("2024-01-05 12:00:00.0000005", "2024-01-05 12:00:00"),
        ("2024-01-05 12:00:00.0000015", "2024-01-05 12:00:00.000002"),
        ("2024-01-05T12:00:00Z", "2024-01-05 12:00:00"),
        ("2024-01-05 12:00:00 UTC", "2024-01-05 12:00:00"),
        ("2024-01-05 12:00:00-05:30", "2024-01-05 12:00:00"),
    ],
)
def test_a_timestamp_is_a_moment_without_zone(value: str, meaning: str) -> None:
    assert str(timestamp_of(value)) == meaning


@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        (b"2000-01-01", 0),
        (b"1999-12-31 23:59:59.999999", -1),
        (b"294276-12-31 23:59:59.999999", 9_223_371_331_199_999_999),
        (b"infinity", (1 << 63) - 1),
        (b"-Infinity", -(1 << 63)),
    ],
)
def test_a_timestamp_counts_microseconds_since_2000(value: bytes, microseconds: int) -> None:
    assert encode_field(Kind.TIMESTAMP, value) == struct.pack(">q", microseconds)


@pytest.mark.parametrize(
    "value",
    [
        b"0000-01-01", b"2023-02-29", b"2024-02-30", b"2024-13-01", b"2024-00-01", b"2024-01-32",
        b"2024-01-05 24:00:01", b"2024-01-05 12:60:00", b"2024-01-05 12:00:61",
        b"2024-01-05 12:00:00+16", b"2024-01-05 12:00:00+05:60",
    ],
)  # fmt: skip
def test_a_timestamp_that_does_not_exist_is_rejected(value: bytes) -> None:
    assert encode_field(Kind.TIMESTAMP, value) is Reason.TIMESTAMP_VALUE


@pytest.mark.parametrize("value", [b"294277-01-01", b"294276-12-31 24:00:00", b"999999-12-31"])
def test_a_timestamp_beyond_those_of_postgres_is_out_of_range(value: bytes) -> None:
    assert encode_field(Kind.TIMESTAMP, value) is Reason.TIMESTAMP_RANGE


@pytest.mark.parametrize(
    "value",
    [
        b" ", b"now", b"today", b"epoch", b"01/05/2024", b"Jan 5 2024", b"20240105", b"99-01-05", b"2024-01-05T",
        b"2024-01-05 12", b"2024-01-05 12:00:00 BC", b"2024-01-05 12:00:00 EST", b"2024-01-05x12:00:00",
        b"2024-01-05 12:00:00." + b"1" * 101,
    ],
)  # fmt: skip
def test_a_timestamp_in_another_spelling_is_rejected(value: bytes) -> None:
    assert encode_field(Kind.TIMESTAMP, value) is Reason.TIMESTAMP_SYNTAX


@pytest.mark.parametrize(
    ("kind", "layout", "limit", "reason"),
    [
        (Kind.INTEGER, ">i", 1 << 31, Reason.INTEGER_RANGE),
        (Kind.BIGINT, ">q", 1 << 63, Reason.BIGINT_RANGE),
    ],
)
def test_integers_reach_to_their_limits(kind: Kind, layout: str, limit: int, reason: Reason) -> None:
    for number in (-limit, -1, 0, 1, limit - 1):
        assert encode_field(kind, b" %d\n" % number) == struct.pack(layout, number)
    for beyond in (b"%d" % (-limit - 1), b"%d" % limit, b"9" * 5000):
        assert encode_field(kind, beyond) is reason
    assert encode_field(kind, b"+" + b"0" * 5000 + b"7") == struct.pack(layout, 7)


@pytest.mark.parametrize("value", [b" ", b"-", b"1.0", b"1e3", b"- 1", b"0x1F", b"1_000", b"1,000", b"N"])
def test_an_integer_is_digits_with_or_without_a_sign(value: bytes) -> None:
    assert encode_field(Kind.INTEGER, value) is Reason.INTEGER_SYNTAX


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"45.61", 45.61),
        (b"-0", -0.0),
        (b" +.5\n", 0.5),
        (b"5.", 5.0),
        (b"1E5", 100_000.0),
        (b"4.9e-324", 5e-324),
        (b"0e-400", 0.0),
        (b"1.7976931348623158e308", 1.7976931348623157e308),
        (b"9007199254740993", 9007199254740992.0),
        (b"0." + b"3" * 300, 1 / 3),
        (b"-inf", float("-inf")),
        (b"INFINITY", float("inf")),
        (b"NaN", float("nan")),
    ],
)
def test_a_double_is_rounded_to_the_nearest(value: bytes, number: float) -> None:
    assert encode_field(Kind.DOUBLE, value) == struct.pack(">d", number)


@pytest.mark.parametrize("value", [b"1e400", b"-1e400", b"1e-400", b"2.4703282292062327e-324", b"9" * 400])
def test_a_double_too_large_or_too_near_to_zero_is_out_of_range(value: bytes) -> None:
    assert encode_field(Kind.DOUBLE, value) is Reason.DOUBLE_RANGE


@pytest.mark.parametrize(
    "value", [b" ", b".", b"e5", b"1e", b"1,5", b"1_0", b"--1", b"0x1p3", b"nan(1)", b"$1"]
)
def test_a_double_is_decimal(value: bytes) -> None:
    assert encode_field(Kind.DOUBLE, value) is Reason.DOUBLE_SYNTAX
