"""The tables of an import before its publish: creates the import's table, attaches its parts, builds missing indexes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from functools import partial

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import scalar_row

from loader import failpoint
from loader.cancellation import Interrupt
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import Limits
from loader.postgres import import_tables, indexing, ledger, target_table
from loader.postgres.connection import Connection
from loader.postgres.errors import (
    is_of_user_code,
    server_message,
    user_code_translated,
    with_server_hint,
)
from loader.postgres.lock_retry import retry_while_locked
from loader.postgres.target_check import TRIPS

# SQLSTATE classes of statements that fail because trips was dropped or altered, or has a constraint that no import can have.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TABLE_CHANGED_CLASSES = ("0A", "42")


@contextlib.contextmanager
def table_changes() -> Generator[None]:
    """Raise TABLE_CHANGED if a statement fails because trips, or the import's own table, was altered or dropped."""
    try:
        yield
    except pg.InsufficientPrivilege:
        raise
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] not in _TABLE_CHANGED_CLASSES or is_of_user_code(error):
            raise
        raise table_changed(server_message(error), error) from error


def create_import_table(
    connection: Connection, import_key: int, interrupt: Interrupt, limits: Limits
) -> None:
    """Create the import's table unless an earlier attempt has: like trips, with a fixed key, partitioned by part.

    A table that was dropped, renamed or moved is created again. Raises TABLE_LOCKED, TABLE_MISMATCH, Stopped.
    """
    table = ledger.import_table(import_key)

    def create() -> None:
        with user_code_translated(), connection.transaction():
            place = import_tables.import_place(connection, import_key)
            if place is not None and place.has_own_name:
                return
            connection.execute(
                sql.SQL(
                    "CREATE TABLE {table} (LIKE {trips} INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
                    " INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING INDEXES,"
                    " CONSTRAINT import_key CHECK (import_key = {key})) PARTITION BY LIST (part)"
                ).format(table=table, trips=TRIPS, key=import_key)
            )
            connection.execute(
                sql.SQL("ALTER TABLE {} ALTER import_key SET DEFAULT {}").format(table, import_key)
            )
            connection.execute(
                "UPDATE loader.import SET table_oid = format('loader.import_%%s', import_key)::regclass"
                " WHERE import_key = %s",
                [import_key],
            )

    try:
        retry_while_locked(connection, create, interrupt, limits.trips_lock_seconds)
    except pg.FeatureNotSupported as error:
        raise LoaderError(
            FailureCode.TABLE_MISMATCH,
            f"No import can have an index or a constraint of trips: {server_message(error)}.",
            with_server_hint(
                "A unique index must include both keys, import_key and part. Drop it, then run the command again.",
                error,
            ),
        ) from error
    except pg.DuplicateTable as error:
        raise import_tables.name_taken(f"loader.import_{import_key}") from error


@table_changes()
def attach_parts(connection: Connection, import_key: int, interrupt: Interrupt, limits: Limits) -> None:
    """Attach the parts to the import's table, unless an earlier attempt has; a short transaction each.

    Raises TABLE_LOCKED if others (pg_dump) read a part for longer than `staging_lock_seconds`, TABLE_CHANGED if a part was
    renamed or moved, Stopped.
    """
    attach = partial(_attach_parts, connection, import_key)
    retry_while_locked(connection, attach, interrupt, limits.staging_lock_seconds)
    refuse_other_partitions(connection, import_key)


def _attach_parts(connection: Connection, import_key: int) -> None:
    for part in ledger.parts(connection, import_key):
        place = import_tables.part_place(connection, part)
        if place is None or place.parent_oid is not None or not place.has_own_name:
            continue
        failpoint.hit()
        connection.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})").format(
                ledger.import_table(import_key), place.identifier, part
            )
        )


@table_changes()
def build_indexes(
    connection: Connection,
    import_key: int,
    interrupt: Interrupt,
    limits: Limits,
    on_progress: Callable[[int, int], None],
) -> None:
    """Build the indexes that trips has got since the import's table was created; see indexing.build_missing.

    Raises TABLE_CHANGED, TABLE_LOCKED, Stopped.
    """
    refuse_changed_columns(connection, import_key)

    def build(action: Callable[[], None]) -> None:
        interrupt.check()
        retry_while_locked(connection, action, interrupt, limits.trips_lock_seconds)

    indexing.build_missing(connection, import_key, build, on_progress)


@table_changes()
def attached_row_count(connection: Connection, import_key: int) -> int:
    """Return the number of rows in the import's attached parts that are not empty, which a publish makes visible.

    Reads one row of each part. A part whose rows were all deleted is read whole.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            sql.SQL(
                "SELECT coalesce(sum(row_count), 0)::bigint FROM loader.part p JOIN loader.import i USING (import_key)"
                " JOIN pg_inherits ON inhrelid = p.table_oid AND inhparent = i.table_oid"
                " CROSS JOIN LATERAL (SELECT FROM {} t WHERE t.part = p.part LIMIT 1) one WHERE import_key = %s"
            ).format(ledger.import_table(import_key)),
            [import_key],
        ).fetchall()[0]


def refuse_other_partitions(connection: Connection, import_key: int) -> None:
    """Raise TABLE_CHANGED unless the partitions of the import's table are exactly its parts."""
    if not import_tables.has_its_parts(connection, import_key):
        raise table_changed(
            f"the partitions of loader.import_{import_key} are not the parts that the loader attached"
        )


def refuse_changed_columns(connection: Connection, import_key: int) -> None:
    """Raise TABLE_CHANGED if the columns of trips and of the import's table differ."""
    now = {row[0]: row for row in target_table.columns(connection, "public.trips")}
    then = {row[0]: row for row in target_table.columns(connection, f"loader.import_{import_key}")}
    if changed := [str(name) for name in now.keys() | then.keys() if now.get(name) != then.get(name)]:
        raise table_changed(f"column {', '.join(sorted(changed))}")


def table_changed(what: str, error: psycopg.Error | None = None) -> LoaderError:
    """Return the error for a trips that changed during the import, with the hint of the server's error, if any."""
    hint = "Undo the change and run the command again to publish what is loaded; or `loader drop` the import."
    return LoaderError(
        FailureCode.TABLE_CHANGED,
        f"The table trips was altered during the import: {what}.",
        hint if error is None else with_server_hint(hint, error),
    )
