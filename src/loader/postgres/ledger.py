"""Reads and writes the ledger's rows: imports, parts, blocks and rejects. The ledger alone records what is loaded.

The service reads it, too. import_lock.py decides which loader may write.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Literal, LiteralString
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.rows import args_row, class_row, scalar_row

from loader.contract import FailureCode, Mode, Receipt
from loader.errors import LoaderError
from loader.postgres.connection import Connection
from loader.rejects import Reject


class Span(msgspec.Struct, frozen=True, order=True):
    """The bytes [start, end) of the decompressed file, and the physical lines in them."""

    start: int
    end: int
    line_count: int


class Import(msgspec.Struct, frozen=True):
    """An import's row."""

    import_key: int
    id: UUID
    state: Literal["loading", "published", "removing"]
    attempt: int
    mode: Mode
    location: str
    source_bytes: int | None
    validator: str | None
    data_start: int
    column_count: int
    created_at: datetime.datetime
    receipt: str | None  # JSON of contract.Receipt
    digest: str | None  # SHA-256 of the bytes that the probe read; None: unknown
    table_oid: int | None  # of the import's table; None: not created yet

    def read_receipt(self) -> Receipt | None:
        """Return the receipt; None: the import was never published."""
        return None if self.receipt is None else msgspec.json.decode(self.receipt, type=Receipt)


class BlockRow(msgspec.Struct, frozen=True):
    """A block's row: the bytes [byte_start, byte_end) of the decompressed file, and the counts of their content."""

    byte_start: int
    byte_end: int
    line_count: int
    row_count: int
    reject_count: int
    record_count: int


class Totals(msgspec.Struct, frozen=True):
    """Sums over an import's committed parts and blocks."""

    blocks: int
    parts: int
    bytes: int  # decompressed
    records: int  # of the blocks, counted while cutting
    rows_sent: int  # of the blocks, counted by the encoder
    rows_rejected: int  # of the blocks, counted by the encoder
    rows_copied: int  # of the parts, counted by the server
    rejects_stored: int  # rows of loader.reject


# In file order, with the fields of Reject.
_SELECT_REJECTS = (
    "SELECT line, byte_offset, column_name, value, reason, original FROM loader.reject"
    " WHERE import_key = %s ORDER BY byte_offset"
)


def import_table(import_key: int) -> sql.Identifier:
    """Return the name of an import's table, whose partitions are its parts."""
    return sql.Identifier("loader", f"import_{import_key}")


def part_table(import_key: int, part: int) -> sql.Identifier:
    """Return the name of a part's table."""
    return sql.Identifier("loader", f"import_{import_key}_part_{part}")


def select_imports(
    connection: Connection, condition: LiteralString = "true", parameters: Sequence[object] = ()
) -> list[Import]:
    """Return the imports that satisfy an SQL condition, oldest first."""
    with connection.cursor(row_factory=class_row(Import)) as cursor:
        return cursor.execute(
            "SELECT import_key, id, state, attempt, mode, location, source_bytes, validator, data_start, column_count,"
            " created_at, receipt::text, digest, table_oid FROM loader.import WHERE "
            + condition
            + " ORDER BY import_key",
            parameters,
        ).fetchall()


def find_import(connection: Connection, import_id: UUID) -> Import | None:
    """Return the import with this id, or None."""
    return next(iter(select_imports(connection, "id = %s", [import_id])), None)


def get_import(connection: Connection, import_id: UUID) -> Import:
    """Return the import with this id; raises IMPORT_NOT_FOUND."""
    found = find_import(connection, import_id)
    if found is None:
        raise not_found(import_id)
    return found


def not_found(import_id: UUID) -> LoaderError:
    """Return the error for an id that is not in the ledger."""
    return LoaderError(
        FailureCode.IMPORT_NOT_FOUND,
        f"The ledger has no import {import_id}.",
        "`loader imports` lists the ledger's imports; it has no record of a rolled back one.",
    )


def totals(connection: Connection, import_key: int) -> Totals:
    """Return the sums over an import's committed parts and blocks."""
    with connection.cursor(row_factory=args_row(Totals)) as cursor:
        return cursor.execute(
            "SELECT count(*), (SELECT count(*) FROM loader.part p WHERE p.import_key = %(key)s),"
            " coalesce(sum(byte_end - byte_start), 0)::bigint, coalesce(sum(record_count), 0)::bigint,"
            " coalesce(sum(row_count), 0)::bigint, coalesce(sum(reject_count), 0)::bigint,"
            " (SELECT coalesce(sum(row_count), 0)::bigint FROM loader.part p WHERE p.import_key = %(key)s),"
            " (SELECT count(*) FROM loader.reject r WHERE r.import_key = %(key)s)"
            " FROM loader.block WHERE import_key = %(key)s",
            {"key": import_key},
        ).fetchall()[0]


def spans(connection: Connection, import_key: int) -> list[Span]:
    """Return the spans of the committed blocks, in file order."""
    with connection.cursor(row_factory=args_row(Span)) as cursor:
        return cursor.execute(
            "SELECT byte_start, byte_end, line_count FROM loader.block WHERE import_key = %s ORDER BY byte_start",
            [import_key],
        ).fetchall()


def parts(connection: Connection, import_key: int) -> list[int]:
    """Return the numbers of an import's committed parts, ascending."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            "SELECT part FROM loader.part WHERE import_key = %s ORDER BY part", [import_key]
        ).fetchall()


def delete_parts(connection: Connection, numbers: Sequence[int]) -> None:
    """Delete the rows of parts, their blocks and their rejects: the next attempt loads the blocks again."""
    connection.execute("DELETE FROM loader.part WHERE part = ANY(%s)", [list(numbers)])


def rejects(connection: Connection, import_key: int) -> Iterator[Reject]:
    """Yield an import's rejects in file order, by a server-side cursor."""
    with (
        connection.transaction(),
        connection.cursor(name="rejects", row_factory=args_row(Reject)) as cursor,
    ):
        yield from cursor.execute(_SELECT_REJECTS, [import_key])


def first_reject(connection: Connection, import_key: int) -> Reject | None:
    """Return the import's first reject in file order."""
    with connection.cursor(row_factory=args_row(Reject)) as cursor:
        return cursor.execute(f"{_SELECT_REJECTS} LIMIT 1", [import_key]).fetchone()


def insert_part(connection: Connection, import_key: int) -> int:
    """Insert a part's row, which `complete_part` must complete in the same transaction; return the part's number."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            "INSERT INTO loader.part (import_key) VALUES (%s) RETURNING part", [import_key]
        ).fetchall()[0]


def complete_part(connection: Connection, part: int, row_count: int) -> None:
    """Set a part's row count and its table's OID, once the table is filled."""
    connection.execute(
        "UPDATE loader.part SET row_count = %s,"
        " table_oid = format('loader.import_%%s_part_%%s', import_key, part)::regclass WHERE part = %s",
        [row_count, part],
    )


def insert_blocks(connection: Connection, import_key: int, part: int, blocks: Sequence[BlockRow]) -> None:
    """Insert the rows of a part's blocks."""
    with connection.cursor().copy(
        "COPY loader.block (import_key, part, byte_start, byte_end, line_count, row_count, reject_count,"
        " record_count) FROM STDIN"
    ) as copy:
        for block in blocks:
            copy.write_row((import_key, part, *msgspec.structs.astuple(block)))


def insert_rejects(connection: Connection, import_key: int, part: int, rejected: Sequence[Reject]) -> None:
    """Insert the rows of a part's rejects."""
    if not rejected:
        return
    with connection.cursor().copy(
        "COPY loader.reject (import_key, part, line, byte_offset, column_name, value, reason, original) FROM STDIN"
    ) as copy:
        for reject in rejected:
            *row, _kind = msgspec.structs.astuple(reject)
            copy.write_row((import_key, part, *row))
