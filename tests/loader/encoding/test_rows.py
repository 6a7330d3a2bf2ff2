"""Whole rows: the tuple's layout, the dialect's quotes, and the reason for each kind of broken row."""

from __future__ import annotations

import struct

import pytest

from loader.encoding.rows import Fault, encode_row, reject_of
from loader.rejects import Reason, Reject
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS
from loader.text import VALUE_CHARACTERS

OLD_COUNT, *_, NEW_COUNT = LAYOUT_COLUMN_COUNTS
REAL_ROW = (
    b"HV0005,B03406,,2024-01-01 00:21:47,,2024-01-01 00:28:08,2024-01-01 01:05:39,161,158,"
    b"2.83,2251,-45.61,0.0,1.25,4.05,2.75,,0.0,40.18,N,Y,N,N,N"
)


def fields_of(encoded: bytes | Fault) -> list[bytes | None]:
    """Return the fields of a tuple; its format: https://www.postgresql.org/docs/18/sql-copy.html."""
    assert isinstance(encoded, bytes), encoded
    (count,) = struct.unpack_from(">h", encoded)
    fields, position = list[bytes | None](), 2
    for _ in range(count):
        (length,) = struct.unpack_from(">i", encoded, position)
        position += 4
        fields.append(None if length == -1 else encoded[position : position + length])
        position += max(length, 0)
    assert position == len(encoded)
    return fields


def row_with(changes: dict[str, bytes]) -> bytes:
    """Return the real row with other bytes in some columns."""
    names = [column.name for column in COLUMNS]
    fields = REAL_ROW.split(b",")
    for name, field in changes.items():
        fields[names.index(name)] = field
    return b",".join(fields)


def text_of(field: bytes) -> bytes | None:
    """Return the second field, a text, of a row whose other fields are null."""
    return fields_of(encode_row(b"," + field + b"," * (OLD_COUNT - 2), OLD_COUNT))[1]


def test_a_row_becomes_a_binary_copy_tuple() -> None:
    seconds = 757_383_707  # from 2000-01-01 00:00:00 to 2024-01-01 00:21:47
    fields = fields_of(encode_row(REAL_ROW, OLD_COUNT))
    assert len(fields) == OLD_COUNT
    assert fields[:3] == [b"HV0005", b"B03406", None]
    assert fields[3:5] == [struct.pack(">q", seconds * 1_000_000), None]
    assert fields[7:9] == [struct.pack(">i", 161), struct.pack(">i", 158)]
    assert fields[9:12] == [struct.pack(">d", 2.83), struct.pack(">q", 2251), struct.pack(">d", -45.61)]
    assert fields[16] is None
    assert fields[19:] == [b"N", b"Y", b"N", b"N", b"N"]


def test_a_row_of_the_newer_layout_has_one_double_more() -> None:
    fields = fields_of(encode_row(REAL_ROW + b",1.5", NEW_COUNT))
    assert fields == [*fields_of(encode_row(REAL_ROW, OLD_COUNT)), struct.pack(">d", 1.5)]


def test_quotes_around_every_field_change_nothing() -> None:
    quoted = b",".join(b'"' + field + b'"' if field else b"" for field in REAL_ROW.split(b","))
    assert encode_row(quoted, OLD_COUNT) == encode_row(REAL_ROW, OLD_COUNT)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (b"", None),
        (b'""', b""),
        (b" ", b" "),
        (b" N ", b" N "),
        (b"\\.", b"\\."),
        (b"\\N", b"\\N"),
        (b'"a,b"', b"a,b"),
        (b'"a\nb"', b"a\nb"),
        (b'"a\r\nb"', b"a\r\nb"),
        (b'"say ""yes"""', b'say "yes"'),
        (b'""""', b'"'),
        (b'ab"c,d"e', b"abc,de"),
        (b'"a"b"c"', b"abc"),
        (b' "a" ', b" a "),
        (b'a""', b"a"),
        ("Zürich".encode(), "Zürich".encode()),
    ],
)
def test_a_text_field_is_read_as_csv(field: bytes, text: bytes | None) -> None:
    assert text_of(field) == text


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", Reason.FIELD_COUNT),
        (b"\\.", Reason.FIELD_COUNT),
        (REAL_ROW + b",", Reason.FIELD_COUNT),
        (REAL_ROW.rpartition(b",")[0], Reason.FIELD_COUNT),
        (b'"' + REAL_ROW + b'"', Reason.FIELD_COUNT),
        (REAL_ROW + b'"', Reason.QUOTE),
        (REAL_ROW + b"\r", Reason.CARRIAGE_RETURN),
        (row_with({"hvfhs_license_num": b'"\r"\r'}), Reason.CARRIAGE_RETURN),
        # A quote separates the bytes of a character.
        (row_with({"hvfhs_license_num": b'\xc3"\xa9"'}), Reason.ENCODING),
    ],
)
def test_a_row_broken_as_a_whole_is_a_fault_without_a_column(record: bytes, reason: Reason) -> None:
    fault = encode_row(record, OLD_COUNT)
    assert isinstance(fault, Fault)
    assert (fault.column_index, fault.value, fault.reason) == (None, None, reason)


@pytest.mark.parametrize("column_count", LAYOUT_COLUMN_COUNTS)
def test_a_row_of_another_layout_has_the_wrong_number_of_fields(column_count: int) -> None:
    for other in set(LAYOUT_COLUMN_COUNTS) - {column_count}:
        assert encode_row(b"," * (other - 1), column_count) == Fault(
            None, None, Reason.FIELD_COUNT, (other, column_count)
        )


@pytest.mark.parametrize(
    ("column", "field", "value", "reason"),
    [
        ("wav_match_flag", b'"N\0"', b"N\0", Reason.NUL),
        ("trip_miles", b"1\0", b"1\0", Reason.NUL),
        ("hvfhs_license_num", b"caf\xe9", b"caf\xe9", Reason.ENCODING),
        ("trip_time", b"\xff\xfe1", b"\xff\xfe1", Reason.ENCODING),
        ("pickup_datetime", b'"2024-02-30 00:00:00"', b"2024-02-30 00:00:00", Reason.TIMESTAMP_VALUE),
        ("on_scene_datetime", b"tomorrow", b"tomorrow", Reason.TIMESTAMP_SYNTAX),
        ("pulocationid", b"2147483648", b"2147483648", Reason.INTEGER_RANGE),
        ("trip_time", b'""', b"", Reason.QUOTED_EMPTY),
        ("request_datetime", b'""', b"", Reason.QUOTED_EMPTY),
        ("tolls", b'""', b"", Reason.QUOTED_EMPTY),
        ("trip_time", b'" "', b" ", Reason.INTEGER_SYNTAX),
        ("trip_time", b"9223372036854775808", b"9223372036854775808", Reason.BIGINT_RANGE),
        ("tips", b'"1,5"', b"1,5", Reason.DOUBLE_SYNTAX),
        ("driver_pay", b"1e400", b"1e400", Reason.DOUBLE_RANGE),
    ],
)
def test_a_bad_field_is_a_fault_with_its_column_and_value(
    column: str, field: bytes, value: bytes, reason: Reason
) -> None:
    fault = encode_row(row_with({column: field}), OLD_COUNT)
    assert isinstance(fault, Fault)
    assert fault.column_index is not None
    assert (COLUMNS[fault.column_index].name, fault.value, fault.reason) == (column, value, reason)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (b"", "1"),
        (b"," * 22, "23"),
        (b"," * 5_000, "5,001"),
        (b'"a,b","c ""d"", e",f' + b"," * 30, "33"),
        (b'a"b,c"d,"\n,"', "2"),
        (b'"' + REAL_ROW + b'"', "1"),
    ],
)
def test_a_reject_of_another_length_says_how_many_fields_it_has(record: bytes, found: str) -> None:
    fault = encode_row(record, OLD_COUNT)
    assert isinstance(fault, Fault)
    reject = reject_of(fault, record, 7, 1_000)
    assert (reject.reason, reject.kind) == (
        f"wrong number of fields: {found} instead of 24",
        Reason.FIELD_COUNT,
    )


def test_of_several_faults_the_one_that_explains_most_is_reported() -> None:
    record = row_with({"pulocationid": b"x", "trip_miles": b"y", "tips": b"\xff", "driver_pay": b"\0"})
    too_many = record + b","
    with_return = too_many + b"\r"
    unterminated = with_return + b'"'
    column = [column.name for column in COLUMNS].index
    assert encode_row(unterminated, OLD_COUNT) == Fault(None, None, Reason.QUOTE)
    assert encode_row(with_return, OLD_COUNT) == Fault(None, None, Reason.CARRIAGE_RETURN)
    assert encode_row(too_many, OLD_COUNT) == Fault(None, None, Reason.FIELD_COUNT, (25, 24))
    assert encode_row(record, OLD_COUNT) == Fault(column("tips"), b"\xff", Reason.ENCODING)
    decoded = record.replace(b"\xff", b"0").replace(b"\0", b"0")
    assert encode_row(decoded, OLD_COUNT) == Fault(column("pulocationid"), b"x", Reason.INTEGER_SYNTAX)


def test_a_reject_shows_the_beginning_of_a_long_value() -> None:
    for value, shown in ((b"x", "x"), (b"\xff", r"\xff"), ("𝄞".encode(), "𝄞")):
        reject = reject_of(Fault(1, value * 1_000_000, Reason.ENCODING), b"", line=7, byte_offset=1_000)
        assert reject.value == (shown * VALUE_CHARACTERS)[:VALUE_CHARACTERS] + "…"


def test_a_reject_shows_bytes_that_are_no_text_as_escapes() -> None:
    fault = Fault(1, b"B\0\xff3\xc3\xa9", Reason.NUL)
    reject = reject_of(fault, b"the row", line=7, byte_offset=1_000)
    assert reject == Reject(
        7, 1_000, "dispatching_base_num", r"B\x00\xff3é", "NUL byte", b"the row", Reason.NUL
    )
    assert reject_of(Fault(None, None, Reason.QUOTE), b'"', 8, 1_200) == Reject(
        8, 1_200, None, '"', "unterminated quoted field", b'"', Reason.QUOTE
    )
