"""Postgres' own CSV reader, to hold the loader's against: COPY into a table of the file's columns, and out of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from loader.trips import COLUMNS, POSTGRES_TYPES

COLUMN_COUNT = 24
COLUMN_NAMES = ", ".join(column.name for column in COLUMNS[:COLUMN_COUNT])
# What surrounds the tuples of a binary COPY: https://www.postgresql.org/docs/18/sql-copy.html
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"


@contextmanager
def csv_reader(database_url: str) -> Generator[psycopg.Connection]:
    """A connection with an empty table `stored`, which has a column `example` and then the file's columns."""
    types = ", ".join(f"{column.name} {POSTGRES_TYPES[column.kind]}" for column in COLUMNS[:COLUMN_COUNT])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE TEMPORARY TABLE stored (example integer, {types})".encode())
        yield connection


def copy_in(connection: psycopg.Connection, columns: str, records: list[bytes], options: str = "") -> None:
    """Let Postgres read records, each with a newline added, into some columns of the table."""
    statement = f"COPY stored ({columns}) FROM STDIN (FORMAT csv, ENCODING 'UTF8'{options})"
    with connection.cursor().copy(statement.encode()) as copy:
        copy.write(b"".join(record + b"\n" for record in records))


def stored_tuples(connection: psycopg.Connection, condition: str = "true") -> bytes:
    """The file's columns of the rows that meet the condition: binary COPY tuples, ordered by `example`."""
    query = f"SELECT {COLUMN_NAMES} FROM stored WHERE {condition} ORDER BY example"
    with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as copy:
        file = b"".join(copy)
    assert file.startswith(_HEADER)
    assert file.endswith(_TRAILER)
    return file[len(_HEADER) : -len(_TRAILER)]
