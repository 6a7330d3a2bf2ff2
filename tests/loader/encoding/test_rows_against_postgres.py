"""rows.py against Postgres: `COPY ... (FORMAT csv)` stores a row bit for bit as rows.py encodes it."""

from __future__ import annotations

from collections.abc import Generator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.encoding.rows import Fault, encode_row
from loader.rejects import Reason
from loader.schema import COLUMNS
from tests.support.csv_reader import (
    COLUMN_COUNT,
    COLUMN_NAMES,
    copy_in,
    csv_reader,
    is_rejected_on_purpose,
    stored_tuples,
)

NULL_ROW = b"," * (COLUMN_COUNT - 1)
NULL_TUPLE = COLUMN_COUNT.to_bytes(2, "big") + b"\xff\xff\xff\xff" * COLUMN_COUNT

# Nothing is committed: the table is temporary, and what an example stores is rolled back.
several_examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def connection(database_url: str) -> Generator[psycopg.Connection]:
    with csv_reader(database_url) as connection:
        yield connection


REAL_ROW = (
    b"HV0003,B03404,B03404,2024-01-01 00:21:47,2024-01-01 00:25:06,2024-01-01 00:28:08,2024-01-01 01:05:39,161,158,"
    b"2.83,2251,45.61,0.0,1.25,4.05,2.75,0.0,0.0,40.18,N,N,N,N,N"
).split(b",")


PIECES = [
    b'"', b'"', b'""', b",", b"\r", b"\n", b"\\.", b" ",
    b"\0", b"\xc3\xa9", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xf0\x9f\x9a\x95", b"\xc0\x80",
]  # fmt: skip


@st.composite
def row(draw: st.DrawFn) -> bytes:
    """Draw a real row in which some fields are quoted, odd or missing."""
    fields = [*REAL_ROW, b""]
    for index in draw(st.lists(st.integers(0, COLUMN_COUNT - 1), max_size=3)):
        field = fields[index]
        pieces = [field, field, b'"%b"' % field, b'"%b"' % field, *PIECES]
        fields[index] = b"".join(draw(st.lists(st.sampled_from(pieces), max_size=4)))
    field_count = draw(st.sampled_from([*[COLUMN_COUNT] * 5, COLUMN_COUNT - 1, COLUMN_COUNT + 1, 0]))
    # A record has no newline outside quotes.
    stretches = b",".join(fields[:field_count]).split(b'"')
    stretches[::2] = [outside.replace(b"\n", b"") for outside in stretches[::2]]
    return b'"'.join(stretches)


def postgres_tuple(connection: psycopg.Connection, record: bytes) -> bytes | None:
    """Return what Postgres stores of one record, None where it rejects it."""
    with connection.transaction(force_rollback=True):
        try:
            # A first line that ends in \n: Postgres would otherwise read a lone \r as the line end.
            copy_in(connection, COLUMN_NAMES, [NULL_ROW, record])
        except psycopg.DataError:
            return None
        return stored_tuples(connection).removeprefix(NULL_TUPLE)


def has_value_rejected_on_purpose(fault: Fault) -> bool:
    """Return whether the value is one that only the loader rejects, such as a timestamp with a quote behind it."""
    syntax = {Reason.TIMESTAMP_SYNTAX, Reason.INTEGER_SYNTAX, Reason.DOUBLE_SYNTAX}
    if fault.column_index is None or fault.value is None or fault.reason not in syntax:
        return False
    return is_rejected_on_purpose(COLUMNS[fault.column_index].kind, fault.value.decode())


@several_examples
@given(records=st.lists(row(), min_size=1, max_size=12))
def test_a_row_is_stored_as_postgres_stores_it(connection: psycopg.Connection, records: list[bytes]) -> None:
    for record in records:
        encoded = encode_row(record, COLUMN_COUNT)
        if isinstance(encoded, Fault) and has_value_rejected_on_purpose(encoded):
            continue
        ours = encoded if isinstance(encoded, bytes) else None
        assert ours == postgres_tuple(connection, record), (record, encoded)


@pytest.mark.parametrize(
    "first",
    [
        b'ab"c,d"e', b'"a""b"', b'""""', b'""', b'"" ""', b'"a"b"c"', b'a""b', b' "a" ', b"\\.", b'"\\."',
        b'"a\nb"', b'"a\r\nb"', b'"a\rb"', b'"a"\r', b"a\rb", b"\r", b'"', b'a"', b'"""', b'"a,b',
        b"\xc3\xa9", b'\xc3"\xa9"', b'\xc3""\xa9', b"\xc3", b"\0", b'"\0"', b"\xef\xbb\xbfa", b"\xed\xa0\x80",
    ],
)  # fmt: skip
def test_an_odd_row_is_stored_as_postgres_stores_it(connection: psycopg.Connection, first: bytes) -> None:
    for record in (first, b"", first + NULL_ROW, first + NULL_ROW + b",", NULL_ROW + first):
        encoded = encode_row(record, COLUMN_COUNT)
        ours = encoded if isinstance(encoded, bytes) else None
        assert ours == postgres_tuple(connection, record), (record, encoded)
