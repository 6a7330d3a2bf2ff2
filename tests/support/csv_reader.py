"""Postgres' own CSV reader as the reference for the loader's: COPY into a table of the file's columns, and out of it."""

from __future__ import annotations

import re
import struct
from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from loader.rejects import Reason
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS, POSTGRES_TYPES, Kind

COLUMN_COUNT = LAYOUT_COLUMN_COUNTS[0]
COLUMN_NAMES = ", ".join(column.name for column in COLUMNS[:COLUMN_COUNT])
# The frame of a binary COPY: https://www.postgresql.org/docs/18/sql-copy.html
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"


# The list in the docstring of fields.py: what Postgres reads and the loader rejects. For timestamps, what the loader reads.
REJECTED_INTEGER = re.compile(r"\s*[+-]?(0[xob][0-9a-f_]+|[0-9_]*_[0-9_]*)\s*", re.IGNORECASE)
REJECTED_DOUBLE = re.compile(r"\s*[+-]?(0x[0-9a-f.p+-]+|nan\(\w*\))\s*", re.IGNORECASE)
DATE = r"\d{4,6}-\d\d?-\d\d?"
TIME = r"(\s+|T)\d\d?:\d\d?(:\d\d?(\.\d{0,100})?)?"
ZONE = r"\s*(Z|UTC|[+-]\d\d|[+-]\d\d\d\d|[+-]\d\d:\d\d)"
ACCEPTED_TIMESTAMP = re.compile(rf"\s*({DATE}({TIME}({ZONE})?)?|[+-]?infinity)\s*", re.IGNORECASE | re.ASCII)


def is_rejected_on_purpose(kind: Kind, value: str) -> bool:
    """Return whether the loader rejects a value of a kind by design, whatever Postgres does."""
    match kind:
        case Kind.INTEGER | Kind.BIGINT:
            return REJECTED_INTEGER.fullmatch(value) is not None
        case Kind.DOUBLE:
            return REJECTED_DOUBLE.fullmatch(value) is not None
        case Kind.TIMESTAMP:
            return ACCEPTED_TIMESTAMP.fullmatch(value) is None
        case Kind.TEXT:
            return False


RANGE_REASONS = {
    Reason.INTEGER_RANGE,
    Reason.BIGINT_RANGE,
    Reason.DOUBLE_RANGE,
    Reason.TIMESTAMP_VALUE,
    Reason.TIMESTAMP_RANGE,
}
# numeric_value_out_of_range, datetime_field_overflow, invalid_time_zone_displacement_value
RANGE_SQLSTATES = {"22003", "22008", "22009"}


@contextmanager
def csv_reader(database_url: str) -> Generator[psycopg.Connection]:
    """Yield a connection with an empty table `stored` of the column `example` and the file's columns."""
    types = ", ".join(f"{column.name} {POSTGRES_TYPES[column.kind]}" for column in COLUMNS[:COLUMN_COUNT])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE TEMPORARY TABLE stored (example integer, {types})".encode())
        yield connection


def copy_in(connection: psycopg.Connection, columns: str, records: list[bytes], options: str = "") -> None:
    """Copy records, each with a newline added, into some columns of the table."""
    statement = f"COPY stored ({columns}) FROM STDIN (FORMAT csv, ENCODING 'UTF8'{options})"
    with connection.cursor().copy(statement.encode()) as copy:
        copy.write(b"".join(record + b"\n" for record in records))


def tuples_in(connection: psycopg.Connection, query: str) -> list[bytes]:
    """Return the rows of a query as binary COPY tuples."""
    with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as copy:
        file = b"".join(copy)
    assert file.startswith(_HEADER)
    assert file.endswith(_TRAILER)
    tuples, start, end = list[bytes](), len(_HEADER), len(_HEADER)
    while end < len(file) - len(_TRAILER):
        (count,) = struct.unpack_from(">h", file, end)
        end += 2
        for _ in range(count):
            (length,) = struct.unpack_from(">i", file, end)
            end += 4 + max(length, 0)
        tuples.append(file[start:end])
        start = end
    return tuples


def stored_tuples(connection: psycopg.Connection, condition: str = "true") -> bytes:
    """Return the file's columns of rows that meet a condition, as binary COPY tuples in the order of `example`."""
    query = f"SELECT {COLUMN_NAMES} FROM stored WHERE {condition} ORDER BY example"
    return b"".join(tuples_in(connection, query))
