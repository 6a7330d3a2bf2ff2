"""fields.py against Postgres: `COPY ... (FORMAT csv)` stores a field bit for bit as fields.py encodes it."""

from __future__ import annotations

from collections.abc import Generator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.encoding.rows import Fault, encode_row
from loader.schema import COLUMNS, POSTGRES_TYPES, Kind
from tests.support.csv_reader import (
    ACCEPTED_TIMESTAMP,
    COLUMN_COUNT,
    COLUMN_NAMES,
    RANGE_REASONS,
    RANGE_SQLSTATES,
    copy_in,
    csv_reader,
    is_rejected_on_purpose,
    stored_tuples,
)

# Nothing is committed: the table is temporary, and what an example stores is rolled back.
several_examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def connection(database_url: str) -> Generator[psycopg.Connection]:
    with csv_reader(database_url) as connection:
        yield connection


ODD_TEXTS = [
    "", " ", "N", "B03404", "a\"b", "a,b", "a\nb\r\nc", "\\.", "\\N", "NULL", "Zürich 🚕", "\x7f\u0085\ufeff",
]  # fmt: skip
ODD_INTEGERS = [
    "0", "-0", "+0", "7", "+7", "-7", "007", "-", "+", "--", "+-1", "1.0", "1e3", "1,000", "١٢", "0x1F", "0o17",
    "0b11", "1_000", "_1", "1__0", "0x_1", "2147483647", "2147483648", "-2147483648", "-2147483649",
    "0000000000000000000000000000000000000000012", "99999999999x", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "-9223372036854775809", "18446744073709551616",
]  # fmt: skip
ODD_DOUBLES = [
    "0", "-0", "-0.0", "+.5", "5.", ".", "+.", "1e5", "1E+5", "1e-5", "1e", "1e+", "e5", ".e5", "--1", "+-1",
    "1_0", "1,5", "1d5", "0x1p3", "0x", "0b1", "٣", "nan", "NaN", "-nan", "+NAN", "nan(1)", "nan()", "inf",
    "-inf", "+INF", "Infinity", "-INFINITY", "infinit", "1e400", "-1e400", "1e-400", "0e400", "0e-400",
    "0.0e999999999999999999999", "1e999999999999999999999", "1e-999999999999999999999", "4.9e-324",
    "2.4703282292062327e-324", "2.4703282292062328e-324", "5e-325", "2.2250738585072011e-308",
    "2.2250738585072014e-308", "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308",
    "1.797693134862315807e308", "9007199254740993", "9007199254740992.5", "0.1", "0.30000000000000004",
    "123456789012345678901234567890", "8.5e22", "1e23",
    "1" * 300, "0." + "0" * 400 + "1", "0." + "0" * 300 + "7", "1" * 400, "1" * 400 + "e-399",
]  # fmt: skip
ODD_DATES = [
    "2024-01-05", "2024-1-5", "0001-01-01", "0000-01-01", "002024-01-01", "0002024-01-01", "12024-01-01",
    "294276-12-31", "294277-01-01", "999999-12-31", "9999-12-31", "10000-01-01", "2024-02-29", "2023-02-29",
    "1900-02-29", "2000-02-29", "4800-02-29", "2024-02-30", "2024-04-31", "2024-00-01", "2024-13-01",
    "2024-01-00", "2024-01-32", "999-01-05", "99-01-05", "2024-001-05", "2024-01-0005", "20240105",
    "01/05/2024", "2024/01/05", "2024-Jan-05", "2024-005",
]  # fmt: skip
ODD_TIMES = [
    "00:00", "00:00:00", "1:2", "1:2:3", "23:59:59.999999", "24:00:00", "24:00", "24:00:00.0000001",
    "24:00:00.000001", "24:00:01", "25:00:00", "23:59:60", "23:59:60.5", "12:30:60", "12:30:60.9999999",
    "12:30:61", "12:60:00", "99:99:99", "12:00:00.9999999", "12:00:00.0000005", "12:00:00.0000015", "12:00:00.",
    "12:00:00.5.5", "12:00.5", "12", "1200", "120030", "010:00:00", "12:", "12:00:", ":00:00", "12:00:00,5",
    "12:00:00.12345678901234567890",
    "12:00:00." + "1" * 100, "12:00:00." + "9" * 101, "12:00:00." + "1" * 140,
]  # fmt: skip
ODD_ZONES = [
    "Z", "z", "UTC", "utc", "+00", "-00", "+05", "-0530", "+05:30", "+5", "+530", "+15:59", "-16", "+05:60",
    "+99:99", "+05:30:30", "+053030", "+05:3", "EST", "America/New_York", "BC",
]  # fmt: skip
WORDS = [
    "infinity", "-infinity", "+infinity", "INFINITY", "inf", "-inf", "now", "today", "tomorrow", "yesterday",
    "epoch", "allballs", "J2451187", "NULL",
]  # fmt: skip

blank = st.sampled_from([" ", "", "  ", "\t", "\n", "\v\f\r", "\u00a0"])
digits = st.text("0123456789", min_size=1, max_size=25)
timestamps = st.one_of(
    st.datetimes().map(str),
    st.datetimes().map(lambda moment: moment.isoformat(timespec="milliseconds")),
    st.from_regex(ACCEPTED_TIMESTAMP, fullmatch=True),
    st.tuples(
        st.sampled_from(ODD_DATES),
        st.sampled_from([" ", "T", "t", "  ", "\t", "", ",", " T "]),
        st.sampled_from(ODD_TIMES),
        blank,
        st.sampled_from(["", *ODD_ZONES]),
    ).map("".join),
    st.sampled_from(WORDS),
)
integers = st.one_of(
    st.integers(-(1 << 33), 1 << 33).map(str),
    st.integers(-(1 << 65), 1 << 65).map(str),
    st.tuples(st.sampled_from(["", "+", "-", "+-"]), digits).map("".join),
    st.sampled_from(ODD_INTEGERS),
)
doubles = st.one_of(
    st.floats().map(repr),
    st.tuples(digits, st.sampled_from([".", ""]), digits).map("".join),
    st.tuples(digits, st.just("."), digits, st.just("e"), st.integers(-345, 310).map(str)).map("".join),
    st.sampled_from(ODD_DOUBLES),
)
well_encoded = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
FIELDS = {
    Kind.TEXT: st.one_of(well_encoded, st.sampled_from(ODD_TEXTS)),
    Kind.TIMESTAMP: timestamps,
    Kind.INTEGER: integers,
    Kind.BIGINT: integers,
    Kind.DOUBLE: doubles,
}


@st.composite
def edited(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Draw a text, perhaps with blanks around it and with some characters added or removed."""
    text = draw(texts)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(text)))
        inserted = draw(st.text("0129+-.:_eExT ZIN/", max_size=2))
        text = text[:at] + inserted + text[at + draw(st.integers(0, 2)) :]
    return draw(blank) + text + draw(blank) if draw(st.booleans()) else text


def assert_same_as_postgres(connection: psycopg.Connection, kind: Kind, values: list[str]) -> None:
    column_index = [column.kind for column in COLUMNS].index(kind)
    before, after = b"," * column_index, b"," * (COLUMN_COUNT - 1 - column_index)
    records = [before + b'"' + value.encode().replace(b'"', b'""') + b'"' + after for value in values]
    encoded = [encode_row(record, COLUMN_COUNT) for record in records]
    rows = {example: row for example, row in enumerate(encoded) if isinstance(row, bytes)}
    faults = [
        (value, row.reason) for value, row in zip(values, encoded, strict=True) if isinstance(row, Fault)
    ]
    out_of_range = [value for value, reason in faults if reason in RANGE_REASONS]
    with connection.transaction(force_rollback=True):
        numbered = [b"%d," % example + record for example, record in enumerate(records)]
        copy_in(connection, f"example, {COLUMN_NAMES}", numbered, ", ON_ERROR ignore, LOG_VERBOSITY silent")
        theirs = {example for (example,) in connection.execute("SELECT example FROM stored")}
        list_of_ours = ", ".join(map(str, [*rows, -1]))
        stored = stored_tuples(connection, f"example IN ({list_of_ours})")
        sqlstates = connection.execute(
            "SELECT error.sql_error_code FROM unnest(%s::text[]) value, pg_input_error_info(value, %s) error",
            (out_of_range, POSTGRES_TYPES[kind]),
        )
        assert {sqlstate for (sqlstate,) in sqlstates} <= RANGE_SQLSTATES

    assert [value for example, value in enumerate(values) if example in rows and example not in theirs] == []
    not_read = [value for example, value in enumerate(values) if example in theirs and example not in rows]
    assert [value for value in not_read if not is_rejected_on_purpose(kind, value)] == []
    assert stored == b"".join(rows.values())


@pytest.mark.parametrize("kind", Kind, ids=[kind.name for kind in Kind])
@several_examples
@given(data=st.data())
def test_a_field_is_stored_as_postgres_stores_it(
    connection: psycopg.Connection, kind: Kind, data: st.DataObject
) -> None:
    values = data.draw(st.lists(edited(FIELDS[kind]), min_size=20, max_size=60))
    assert_same_as_postgres(connection, kind, values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Kind.TEXT, ODD_TEXTS),
        (Kind.INTEGER, ODD_INTEGERS),
        (Kind.BIGINT, ODD_INTEGERS),
        (Kind.DOUBLE, ODD_DOUBLES),
        (Kind.TIMESTAMP, WORDS),
        (Kind.TIMESTAMP, ODD_DATES),
        (Kind.TIMESTAMP, [f"{date} 23:59:59.9999999" for date in ODD_DATES]),
        (Kind.TIMESTAMP, [f"2024-02-28 {time}" for time in ODD_TIMES]),
        (Kind.TIMESTAMP, [f"2024-02-28T12:00:00{zone}" for zone in ODD_ZONES]),
        (Kind.TIMESTAMP, [f"2024-02-28 12:00 {zone}" for zone in ODD_ZONES]),
        *((kind, ["", " ", "\u00a0", "\\."]) for kind in Kind),
    ],
)
def test_an_odd_field_is_stored_as_postgres_stores_it(
    connection: psycopg.Connection, kind: Kind, values: list[str]
) -> None:
    assert_same_as_postgres(connection, kind, [*values, *(f" \t{value}\n" for value in values)])
