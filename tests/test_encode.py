"""The encoder against rows.py: whatever the bytes are, the same tuples and the same rejects; and at the kernel's pace."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from encoding import (
    BYTE_OFFSET,
    FIRST_LINE,
    Encoded,
    block_of,
    encode,
    encode_row_by_row,
    sample_rows,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import config

from loader.encode import OUTPUT_BYTES, REJECTS_PER_CHUNK, Encoder, compile_kernel
from loader.kernel import encode_rows
from loader.rejects import Reason
from loader.trips import COLUMNS, LAYOUT_COLUMN_COUNTS, Kind

# numba.core.config makes its attributes from the environment at import
INTERPRETED = bool(config.DISABLE_JIT)  # pyright: ignore[reportAttributeAccessIssue]
SAMPLE_ROWS = 50 if INTERPRETED else 2_000
many_examples = settings(max_examples=60 if INTERPRETED else 500, deadline=None)

# Fields at the edges of what each kind may be, and beyond.
TEXTS = [
    b"", b"Y", b"N", b" ", b"HV0003", b"B03404", b"seven77", b"eight888", b"nine99999", b"x" * 15, b"y" * 16, b"z" * 300,
    b"\xc3\xa9", b"1234567\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x9a\x95" * 5, b"\xed\x9f\xbf\xee\x80\x80",
    b"\xf4\x8f\xbf\xbf", b"\xe0\xa0\x80\xf0\x90\x80\x80", b"\x7f", b"\x01tab\tbell\x07", b"a\\.b", b"\\.", b"{", b"/", b"!",
    b"a\0b", b"\0", b"\xff", b"\xc3", b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\xe2\x28\xa1", b"\xf0\x9f\x9a", b"\xf0\x9f\x28\x95", b"\xf0\x28\x9a\x95",
    b'a"b', b'"', b'""', b'a""b', b"a,b", b"a\nb", b"a\rb", b"\r", b"a\r\nb",
]  # fmt: skip
TIMESTAMPS = [
    b"2024-01-01 00:21:47", b"2024-01-01T00:21:47", b"2024-01-01t00:21:47", b"2020-04-24 08:19:06.000000", b"2024-01-01 00:00:00.5",
    b"2024-12-31 23:59:59.999999", b"2024-01-01 00:00:00.9999995", b"2024-01-01 00:00:00.1234567", b"2024-01-01 00:00:00.",
    b"2024-01-01 00:00:00.00000x", b"2024-02-29 12:00:00", b"2023-02-29 12:00:00", b"2000-02-29 12:00:00", b"1900-02-29 12:00:00",
    b"2024-02-30 00:00:00", b"2024-04-31 00:00:00", b"2024-13-01 00:00:00", b"2024-00-10 00:00:00", b"2024-19-10 00:00:00",
    b"2024-01-00 00:00:00", b"2024-01-32 00:00:00", b"2024-01-3: 00:00:00", b"0001-01-01 00:00:00", b"0000-01-01 00:00:00",
    b"0004-02-29 00:00:00", b"9999-12-31 23:59:59.999999", b"10000-01-01 00:00:00", b"294276-12-31 23:59:59", b"294277-01-01 00:00:00",
    b"2024-01-01 24:00:00", b"2024-01-01 24:00:01", b"2024-01-01 25:00:00", b"2024-01-01 29:00:00", b"2024-01-01 23:60:00",
    b"2024-01-01 23:59:60", b"2024-01-01 23:59:61", b"2024-01-01 1:02:03", b"2024-1-1 00:00:00", b"2024-01-01", b"2024-01-01 00:21",
    b" 2024-01-01 00:21:47", b"2024-01-01 00:21:47 ", b"2024-01-01  00:21:47", b"2024-01-01 00:21:47Z", b"2024-01-01 00:21:47+02",
    b"2024/01/01 00:21:47", b"2024-01-01 00-21-47", b"infinity", b"-infinity", b"now", b"", b"x", b"2024-01-01 00:21:47,", b"1999-12-31 23:59:59",
]  # fmt: skip
INTEGERS = [
    b"0", b"-0", b"+0", b"1", b"265", b"007", b"-7", b"+7", b"1234567", b"12345678", b"-1234567", b"00000000000000000001", b"0" * 30,
    b"2147483647", b"2147483648", b"-2147483648", b"-2147483649", b"9223372036854775807", b"9223372036854775808",
    b"-9223372036854775808", b"-9223372036854775809", b"9999999999999999999", b"18446744073709551617", b"99999999999999999999",
    b"", b"-", b"+", b"--1", b"+-1", b"1.0", b"1e3", b" 5", b"5 ", b" ", b"0x1F", b"1_000", b"5a", b"a5", b"1:", b"1/", b"\xb1",
]  # fmt: skip
DOUBLES = [
    b"0", b"0.0", b"-0.0", b"-0", b"+0.5", b".5", b"5.", b".", b"-.", b"-.5", b"45.61", b"-43.09", b"417.62", b"11.054", b"0.000001",
    b"1234567", b"12345678", b"123456789", b"1234.56", b"1234.567", b"12345.678", b"1234567.", b"12345678.", b".1234567", b"1.5e3",
    b"1.5E+3", b"15e-1", b"1e5", b"1e", b"1e+", b"e5", b".e5", b"1e5.", b"1e00005", b"1e000005", b"0e99999", b"0e9999", b"1e400", b"1e-400",
    b"4e-320", b"2.2250738585072014e-308", b"1.7976931348623157e308", b"1.7976931348623159e308", b"9007199254740993",
    b"9007199254740993.0", b"0.30000000000000004", b"5.0000000000000001", b"0.1234567890123456789", b"1234567890123456789",
    b"12345678901234567890", b"123456789012345678901234567890e-20", b"3" * 300, b"0." + b"0" * 30 + b"1", b"NaN", b"nan", b"inf", b"-Infinity",
    b"0x1p3", b"1_0.0", b"1.2.3", b"1-2", b"--1", b" 1.5", b"1.5 ", b"", b" ", b"-", b"abc", b"1.5f", b"1,5", b"\xb1.5", b"1.\xb5",
]  # fmt: skip
EDGES = {
    Kind.TEXT: TEXTS,
    Kind.TIMESTAMP: TIMESTAMPS,
    Kind.INTEGER: INTEGERS,
    Kind.BIGINT: INTEGERS,
    Kind.DOUBLE: DOUBLES,
}
STRUCTURE = st.sampled_from([b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"0", b".", b"-", b"Y", b" "])


@st.composite
def plain_field(draw: st.DrawFn, kind: Kind) -> bytes:
    """A field as files have it, with any value."""
    match kind:
        case Kind.TEXT:
            return draw(st.text(max_size=20)).encode()
        case Kind.TIMESTAMP:
            return str(draw(st.datetimes())).encode()
        case Kind.INTEGER:
            return b"%d" % draw(st.integers(-(2**31), 2**31 - 1))
        case Kind.BIGINT:
            return b"%d" % draw(st.integers(-(2**63), 2**63 - 1))
        case Kind.DOUBLE:
            return repr(draw(st.floats(allow_nan=False, allow_infinity=False))).encode()


@st.composite
def row(draw: st.DrawFn, column_count: int) -> bytes:
    """A row of a file with a few fields of their own, quoted or not, perhaps damaged, and its line end."""
    fields = list(draw(st.sampled_from(REAL_ROWS[column_count])))
    for index in draw(st.lists(st.integers(0, column_count - 1), max_size=4)):
        kind = COLUMNS[index].kind
        fields[index] = draw(st.sampled_from(EDGES[kind]) | plain_field(kind))
    quoted = draw(st.sampled_from([0, 0, 2**column_count - 1]) | st.integers(0, 2**column_count - 1))
    fields = [b'"%b"' % field if quoted >> index & 1 else field for index, field in enumerate(fields)]
    record = b",".join(fields)
    if draw(st.integers(0, 3)) == 0:
        start = draw(st.integers(0, len(record)))
        end = draw(st.integers(start, min(start + 30, len(record))))
        record = record[:start] + draw(STRUCTURE) + record[end:]
    return record + draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b"\r\r\n", b""]))


REAL_ROWS = {count: [row.split(b",") for row in sample_rows(40, count)] for count in LAYOUT_COLUMN_COUNTS}
odd_bytes = st.lists(STRUCTURE | st.binary(max_size=3), max_size=60).map(b"".join)


@given(st.data(), st.sampled_from(LAYOUT_COLUMN_COUNTS), st.sampled_from([1, 330, 500, 2000, OUTPUT_BYTES]))
@many_examples
def test_rows_are_encoded_and_rejected_as_row_by_row(
    data: st.DataObject, column_count: int, output_bytes: int
) -> None:
    block = b"".join(data.draw(st.lists(row(column_count) | odd_bytes, max_size=8)))
    behind = data.draw(st.sampled_from([b"", b"\n", b"\0" * 64, *[b",".join(REAL_ROWS[column_count][0])]]))

    encoded, _ = encode(block, column_count, output_bytes, behind)

    assert encoded == encode_row_by_row(block, column_count)


@pytest.mark.parametrize("quote", [b"", b'"'], ids=["bare", "quoted"])
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_a_field_at_the_edge_of_its_kind_is_encoded_as_by_rows(column: Column, quote: bytes) -> None:
    index = COLUMNS.index(column)
    rows: list[bytes] = []
    for field in EDGES[column.kind]:
        for end in (b"\n", b"\r\n"):
            fields = list(REAL_ROWS[25][0])
            fields[index] = quote + field + quote
            rows.append(b",".join(fields) + end)

    for text in rows:
        assert encode(text, 25)[0] == encode_row_by_row(text, 25), text
    block = b"".join(rows)
    assert encode(block, 25)[0] == encode_row_by_row(block, 25)
