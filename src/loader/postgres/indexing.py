"""Builds the indexes of trips on an import's tables before the attach, which builds each missing index under locks.

ATTACH PARTITION compares definitions. For each index of the parent, invalid ones included, it uses one index that is valid
and not part of another index; for the index of a constraint, one of a constraint.
https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-ATTACH-PARTITION
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import LiteralString

import msgspec
from psycopg import sql
from psycopg.rows import args_row

from loader import failpoint
from loader.postgres import ledger
from loader.postgres.connection import Connection
from loader.postgres.target_check import TRIPS

# `pg_get_indexdef` begins with the names of the index and its table; this leaves them out.
_INDEXES: LiteralString = """
SELECT pg_get_constraintdef(k.oid), indisunique,
    substr(pg_get_indexdef(indexrelid), length(format('CREATE %%sINDEX %%I ON %%s%%I.%%I ',
        CASE WHEN indisunique THEN 'UNIQUE ' END, i.relname, CASE WHEN i.relkind = 'I' THEN 'ONLY ' END,
        nspname, t.relname)) + 1)
FROM pg_index JOIN pg_class i ON i.oid = indexrelid JOIN pg_class t ON t.oid = indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    LEFT JOIN pg_constraint k ON conindid = indexrelid AND conrelid = indrelid AND contype IN ('p', 'u', 'x')
WHERE indrelid = %(table)s::text::regclass AND (indisvalid AND NOT i.relispartition OR NOT %(only_free)s)
ORDER BY indexrelid
"""
_PARTS: LiteralString = (
    "SELECT nspname, relname, pg_table_size(inhrelid) FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
    " JOIN pg_namespace n ON n.oid = relnamespace WHERE inhparent = %s::text::regclass ORDER BY inhrelid"
)


class IndexMissing(Exception):
    """An import's table lacks an index of trips, which an attach would build."""


class Index(msgspec.Struct, frozen=True):
    """An index's definition, independent of its table."""

    constraint: str | None  # the definition of its constraint; None: it has none
    is_unique: bool
    rest: str  # the definition after the table's name


class _Part(msgspec.Struct, frozen=True):
    schema: str
    name: str
    size_bytes: int

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


def copy_indexes(connection: Connection, source: sql.Identifier, target: sql.Identifier) -> None:
    """Build all indexes of `source` on `target`, which has none."""
    for index in _indexes(connection, source).elements():
        _build(connection, target, index)


def refuse_missing(connection: Connection, import_key: int) -> None:
    """Raise IndexMissing if an attach of the import's table to trips would build an index."""
    if _missing(connection, import_key):
        raise IndexMissing


def build_missing(
    connection: Connection,
    import_key: int,
    do: Callable[[Callable[[], None]], None],
    on_progress: Callable[[int, int], None],
) -> None:
    """Build the indexes that an attach of the import's table to trips would build, part by part.

    `do` builds each index in its own transaction, and may retry it; existing indexes are not built again. Calls
    `on_progress(bytes done, bytes in all)` before the first index, if there is one, and after each.
    """
    missing = _missing(connection, import_key)
    if not missing:
        return
    table = ledger.import_table(import_key)
    with connection.cursor(row_factory=args_row(_Part)) as cursor:
        parts = cursor.execute(_PARTS, [table.as_string(connection)]).fetchall()
    done_bytes, total_bytes = 0, missing.total() * sum(part.size_bytes for part in parts)
    on_progress(0, total_bytes)
    for part in parts:
        for index in (missing - _indexes(connection, part.identifier, only_free=True)).elements():
            failpoint.hit()
            do(lambda part=part, index=index: _build(connection, part.identifier, index))
            done_bytes += part.size_bytes
            on_progress(done_bytes, total_bytes)
    for index in missing.elements():  # these take over the indexes of the parts
        failpoint.hit()
        do(lambda index=index: _build(connection, table, index))
    on_progress(total_bytes, total_bytes)


def _missing(connection: Connection, import_key: int) -> Counter[Index]:
    return _indexes(connection, TRIPS) - _indexes(connection, ledger.import_table(import_key), only_free=True)


def _indexes(connection: Connection, table: sql.Identifier, *, only_free: bool = False) -> Counter[Index]:
    """Return the indexes of a table; `only_free`: those that an attach can use."""
    with connection.cursor(row_factory=args_row(Index)) as cursor:
        parameters = {"table": table.as_string(connection), "only_free": only_free}
        return Counter(cursor.execute(_INDEXES, parameters).fetchall())


def _build(connection: Connection, table: sql.Identifier, index: Index) -> None:
    if index.constraint is not None:
        statement = sql.SQL("ALTER TABLE {} ADD ").format(table).as_bytes(connection)
        connection.execute(statement + index.constraint.encode())
        return
    create = sql.SQL("CREATE UNIQUE INDEX ON {} " if index.is_unique else "CREATE INDEX ON {} ").format(table)
    connection.execute(create.as_bytes(connection) + index.rest.encode())
