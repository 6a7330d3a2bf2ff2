"""Decimal to binary64: the double nearest to any number of up to 19 digits, as Python's float() computes it."""

from __future__ import annotations

import random
import struct
import sys
from decimal import Decimal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from loader.kernel.eisel_lemire import NO_DOUBLE, double_bits
from loader.kernel.intrinsics import UInt64
from loader.schema import COLUMNS, Kind
from tests.support.encoding import INTERPRETED, encode

ROWS = 30 if INTERPRETED else 8_000
DOUBLES_PER_ROW = 10
LARGEST_EXPONENT_BITS = 2046


def bits(value: float) -> int:
    return int.from_bytes(struct.pack(">d", value), "big")


def double(value_bits: int) -> float:
    return struct.unpack(">d", value_bits.to_bytes(8, "big"))[0]


def hard_number(generator: random.Random) -> str:
    """Return a number of up to 19 digits whose nearest double is hard to find."""
    value_bits = generator.randrange(1, LARGEST_EXPONENT_BITS) << 52 | generator.getrandbits(52)
    match generator.randrange(5):
        case 0:  # random digits
            text = f"{generator.randrange(10**19)}e{generator.randrange(-310, 289)}"
        case 1:  # just below the middle between two doubles
            middle = (Decimal(double(value_bits)) + Decimal(double(value_bits + 1))) / 2
            text = f"{middle:.18e}"
        case 2:  # exactly in the middle, where the even double is the nearest
            odd = 2 * (1 << 52 | value_bits & (1 << 52) - 1) + 1
            text = f"{odd << generator.randrange(9)}e0"
        case 3:  # in the middle, with few digits
            odd = 2 * (1 << 52 | generator.getrandbits(20) << 32) + 1
            text = f"{odd * 5 ** generator.randrange(3)}e{generator.randrange(-5, 24)}"
        case _:  # the shortest form of a double
            text = repr(double(value_bits))
    return text


def test_hard_numbers_are_rounded_exactly_and_without_python() -> None:
    generator = random.Random(1)
    normal = [
        number
        for number in (hard_number(generator) for _ in range(ROWS * DOUBLES_PER_ROW * 2))
        if sys.float_info.min * 1.01 < float(number) < sys.float_info.max
    ]
    rows: list[bytes] = []
    expected: list[bytes] = []
    for start in range(0, ROWS * DOUBLES_PER_ROW, DOUBLES_PER_ROW):
        numbers = iter(normal[start : start + DOUBLES_PER_ROW])
        fields = [next(numbers) if column.kind is Kind.DOUBLE else "" for column in COLUMNS]
        rows.append(",".join(fields).encode())
        expected.append(len(COLUMNS).to_bytes(2, "big"))
        expected += [
            struct.pack(">id", 8, float(field)) if field else b"\xff\xff\xff\xff" for field in fields
        ]

    encoded, rows_in_python = encode(b"\n".join(rows), len(COLUMNS))

    assert rows_in_python == 0
    assert encoded.payload == b"".join(expected)


@given(st.integers(0, 10**19 - 1), st.integers(-350, 320))
@example(15, -309)  # subnormal, by less than one binary digit
@example(22250738585072014, -324)  # the smallest normal double; below, the largest one
@example(17976931348623157, 292)
@example(17976931348623159, 292)
@settings(max_examples=200 if INTERPRETED else 2_000, deadline=None)
def test_only_numbers_that_are_no_normal_doubles_are_declined(mantissa: int, exponent: int) -> None:
    value = float(f"{mantissa}e{exponent}")

    result = double_bits(UInt64(mantissa), exponent)

    if result == NO_DOUBLE:
        assert value <= sys.float_info.min or value >= sys.float_info.max
    else:
        assert result == bits(value)
