"""The limit: sends encoded rows from memory over N connections; nothing is fetched or parsed.

Each connection fills a table like the loader's parts, in one COPY and one transaction. The time that the loader takes
beyond this is its own.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg

from loader.pipeline.part import ErrorAwareWriter
from loader.postgres.connection import write_early
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS, POSTGRES_TYPES

# The size in which the loader passes data to libpq.
WRITE_BYTES = 128 * 1024

NAMES = ", ".join(column.name for column in COLUMNS[: LAYOUT_COLUMN_COUNTS[0]])  # the columns of the sample
DEFINITIONS = ", ".join(f"{column.name} {POSTGRES_TYPES[column.kind]}" for column in COLUMNS)
# The loader's columns and checks.
PREPARE = (
    f"CREATE TABLE trips ({DEFINITIONS}, import_key integer NOT NULL, part integer NOT NULL,"
    " CONSTRAINT import_key CHECK (import_key = 1)) PARTITION BY LIST (part)"
)


def main(database_url: str, files: Sequence[str]) -> None:
    """Send each file over its own connection, concurrently; then attach the tables to trips."""
    with ThreadPoolExecutor(len(files)) as threads:
        for _ in threads.map(partial(_send, database_url), range(len(files)), files):
            pass
    with psycopg.connect(database_url) as connection:
        for number in range(len(files)):
            statement = f"ALTER TABLE trips ATTACH PARTITION part_{number} FOR VALUES IN ({number})"
            connection.execute(statement.encode())


def _in_memory(file: Path) -> memoryview:
    with file.open("rb") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ))


def _send(database_url: str, number: int, file: str) -> None:
    table, rows = f"part_{number}", _in_memory(Path(file))
    with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
        write_early(connection)
        for statement in (
            f"CREATE TABLE {table} (LIKE trips INCLUDING CONSTRAINTS, CHECK (part = {number}))"
            " WITH (autovacuum_enabled = off)",
            f"ALTER TABLE {table} ALTER import_key SET DEFAULT 1, ALTER part SET DEFAULT {number}",
        ):
            cursor.execute(statement.encode())
        command = f"COPY {table} ({NAMES}) FROM STDIN (FORMAT binary, FREEZE)".encode()
        # with psycopg's own writer libpq collects a megabyte before it sends any
        with cursor.copy(command, writer=ErrorAwareWriter(cursor)) as copy:
            for start in range(0, len(rows), WRITE_BYTES):
                copy.write(rows[start : start + WRITE_BYTES])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
