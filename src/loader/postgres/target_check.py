"""Checks the table `trips` of the target database at the probe, before anything is loaded."""

from __future__ import annotations

from typing import LiteralString

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres.connection import Connection
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS, POSTGRES_TYPES

TRIPS = sql.Identifier("public", "trips")
_KEY_COLUMNS: dict[str, LiteralString] = {"import_key": "integer", "part": "integer"}
_EXPECTED: dict[str, LiteralString] = {
    **{column.name: POSTGRES_TYPES[column.kind] for column in COLUMNS},
    **_KEY_COLUMNS,
}
# Not every file has these, and an older version of the loader created trips without them.
_OPTIONAL = tuple(column.name for column in COLUMNS[min(LAYOUT_COLUMN_COUNTS) :])


class _Column(msgspec.Struct, frozen=True):
    name: str
    type: str
    is_generated: bool
    is_identity: bool
    is_required: bool  # null is refused, and there is no default


class _UniqueIndex(msgspec.Struct, frozen=True):
    name: str
    constraint: str | None
    columns: list[str | None]  # None: an expression


class _Fault(msgspec.Struct, frozen=True):
    """A property of `trips` that stops every import, and the statement that corrects it."""

    what: str
    remedy: sql.Composed


def check(connection: Connection) -> None:
    """Check that `trips` has the loader's columns, can take imports, and is owned by the role.

    Raises TABLE_MISMATCH with each fault and the SQL that corrects it, DATABASE_RIGHTS.
    """
    columns = _columns(connection)
    types = {column.name: column.type for column in columns}
    _refuse_foreign(connection, types)
    faults = [_missing_column(name) for name in _OPTIONAL if name not in types]
    faults += [fault for column in columns if (fault := _column_fault(column))]
    faults += [fault for index in _unique_indexes(connection) if (fault := _index_fault(index))]
    if faults:
        statements = " ".join(fault.remedy.as_string(connection) for fault in faults)
        raise LoaderError(
            FailureCode.TABLE_MISMATCH,
            f"No import can go into public.trips: {'; '.join(fault.what for fault in faults)}.",
            f"Run this SQL, then the command again: {statements}",
        )
    _refuse_other_owner(connection)


def _refuse_foreign(connection: Connection, types: dict[str, str]) -> None:
    wrong = [
        f"{name} is {types.get(name, 'missing')}, not {expected}"
        for name, expected in _EXPECTED.items()
        if types.get(name) != expected and (name in types or name not in _OPTIONAL)
    ]
    # From the catalog: pg_get_partkeydef waits for sessions that have locked trips.
    partitioned = connection.execute(
        "SELECT partstrat = 'l' AND partnatts = 1 AND partattrs[0] = attnum FROM pg_partitioned_table"
        " JOIN pg_attribute ON attrelid = partrelid AND attname = 'import_key'"
        " WHERE partrelid = 'public.trips'::regclass"
    ).fetchone()
    if partitioned != (True,):
        wrong.append("it is not PARTITION BY LIST (import_key)")
    if wrong:
        raise LoaderError(
            FailureCode.TABLE_MISMATCH,
            f"public.trips is not as the loader creates it: {'; '.join(wrong)}.",
            "If the loader created it, restore its columns. Otherwise rename it, or import into another database: the loader"
            " creates its own trips.",
        )


def _refuse_other_owner(connection: Connection) -> None:
    owned = connection.execute(
        "SELECT pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner) FROM pg_class"
        " WHERE oid = 'public.trips'::regclass"
    ).fetchone()
    if owned is not None and not owned[0]:
        raise LoaderError(
            FailureCode.DATABASE_RIGHTS,
            f"Only {owned[1]}, the owner of public.trips, may attach an import to it.",
            f"Connect as {owned[1]}, or GRANT that role to yours.",
        )


def _columns(connection: Connection) -> list[_Column]:
    with connection.cursor(row_factory=class_row(_Column)) as cursor:
        return cursor.execute(
            "SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attgenerated <> '' AS is_generated,"
            " attidentity <> '' AS is_identity, (attnotnull OR typnotnull) AND NOT atthasdef AND typdefault IS NULL"
            " AS is_required FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid"
            " WHERE attrelid = 'public.trips'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        ).fetchall()


def _missing_column(name: str) -> _Fault:
    """Return the fault of a trips without an optional column, whatever the file: its successors have the column."""
    return _Fault(
        f"column {name} is missing",
        sql.SQL("ALTER TABLE {} ADD COLUMN {} {};").format(
            TRIPS, sql.Identifier(name), sql.SQL(_EXPECTED[name])
        ),
    )


def _column_fault(column: _Column) -> _Fault | None:
    """Return why a column stops every import. A part has no identity column: LIKE copies none, a partition allows none."""
    change = sql.SQL("ALTER TABLE {} ALTER COLUMN {} ").format(TRIPS, sql.Identifier(column.name))
    if column.name in _EXPECTED:
        if column.is_generated:
            return _Fault(
                f"column {column.name} is generated, but files have it",
                change + sql.SQL("DROP EXPRESSION;"),
            )
        return None
    if column.is_identity:
        return _Fault(
            f"column {column.name} is an identity, and no file has a value for it",
            change + sql.SQL("DROP IDENTITY; ") + change + sql.SQL("DROP NOT NULL;"),
        )
    if column.is_required:
        return _Fault(
            f"column {column.name} is NOT NULL without a default, and no file has a value for it",
            change + sql.SQL("DROP NOT NULL;"),
        )
    return None


def _unique_indexes(connection: Connection) -> list[_UniqueIndex]:
    with connection.cursor(row_factory=class_row(_UniqueIndex)) as cursor:
        return cursor.execute(
            "SELECT relname AS name, conname AS constraint,"
            " ARRAY(SELECT attname::text FROM unnest(indkey[0:indnkeyatts - 1]) AS key LEFT JOIN pg_attribute"
            " ON attrelid = indrelid AND attnum = key) AS columns"
            " FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid LEFT JOIN pg_constraint ON conindid = indexrelid"
            " AND contype IN ('p', 'u', 'x') WHERE indrelid = 'public.trips'::regclass AND (indisunique OR indisexclusion)"
        ).fetchall()


def _index_fault(index: _UniqueIndex) -> _Fault | None:
    """Return why a unique index stops every import: it must include the partition keys of both levels."""
    if "part" in index.columns and not set(index.columns) <= _KEY_COLUMNS.keys():
        return None
    remedy = sql.SQL("DROP INDEX {};").format(sql.Identifier("public", index.name))
    if index.constraint is not None:
        remedy = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {};").format(TRIPS, sql.Identifier(index.constraint))
    if "part" in index.columns:
        return _Fault(f"the unique index {index.name} allows one row a part", remedy)
    return _Fault(f"the unique index {index.name} does not include both keys, import_key and part", remedy)
