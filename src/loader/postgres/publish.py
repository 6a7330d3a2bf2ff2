"""Publishes an import: attaches its table to trips in one transaction, which also stores the receipt."""

from __future__ import annotations

import contextlib

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from loader import failpoint
from loader.cancellation import Interrupt
from loader.contract import Receipt
from loader.limits import Limits
from loader.postgres import import_lock, import_tables, indexing, ledger, staging
from loader.postgres.connection import Connection
from loader.postgres.lock_retry import FIRST_TIMEOUT_SECONDS, retry_while_locked, set_lock_timeout
from loader.postgres.target_check import TRIPS
from loader.postgres.target_notes import ANALYZE_ONLY_SERVER
from loader.postgres.target_table import STATISTICS_TARGET


@staging.table_changes()
def publish(
    connection: Connection,
    attempt: import_lock.Attempt,
    target: import_lock.Target,
    receipt: Receipt,
    interrupt: Interrupt,
    limits: Limits,
) -> None:
    """Make all rows of the import visible at once, in the transaction that also stores the receipt.

    Its parts must be attached. The publish locks them, and waits for sessions that read them first, `staging_lock_seconds`
    at most. Raises ALREADY_IMPORTED, IMPORT_BUSY, TABLE_CHANGED, TABLE_MISMATCH (a row violates a constraint),
    TABLE_LOCKED, Stopped; IndexMissing if trips has got an index since `build_indexes`. If the connection is lost during
    the commit, only the ledger knows the result.
    """

    def transaction() -> None:
        try:
            with connection.transaction():
                _publish(connection, attempt, target, receipt)
                failpoint.hit()
                interrupt.begin_commit()
                failpoint.hit()
        finally:
            interrupt.end_commit()

    def lock_own_tables() -> None:
        table = ledger.import_table(attempt.import_key)
        with connection.transaction():
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))

    staging.refuse_changed_columns(connection, attempt.import_key)
    retry_while_locked(connection, lock_own_tables, interrupt, limits.staging_lock_seconds)
    retry_while_locked(connection, transaction, interrupt, limits.trips_lock_seconds)


def analyze(connection: Connection) -> None:
    """Refresh the statistics of trips as a whole; those of the parts exist. A failure is ignored."""
    if connection.info.server_version < ANALYZE_ONLY_SERVER:
        return  # a plain ANALYZE reads every part of every import; a note says so
    with contextlib.suppress(psycopg.Error):
        connection.execute(f"SET default_statistics_target = {STATISTICS_TARGET}".encode())
        set_lock_timeout(connection, FIRST_TIMEOUT_SECONDS)
        connection.execute("ANALYZE ONLY public.trips")


def _publish(
    connection: Connection, attempt: import_lock.Attempt, target: import_lock.Target, receipt: Receipt
) -> None:
    key = attempt.import_key
    published = connection.execute(
        "UPDATE loader.import SET state = 'published', receipt = %s"
        " WHERE import_key = %s AND attempt = %s AND state = 'loading'",
        [msgspec.json.encode(receipt).decode(), key, attempt.number],
    )
    if published.rowcount != 1:
        raise import_lock.superseded()
    import_lock.serialize_by_location(connection, target.location)
    import_lock.refuse_duplicate(connection, target, key)
    # ATTACH takes this lock, too: until the commit no other session can create an index
    connection.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(TRIPS))
    indexing.refuse_missing(connection, key)
    place = import_tables.import_place(connection, key)
    if place is None or not place.has_own_name or place.parent_oid is not None:
        raise staging.table_changed(f"of the import, {import_tables.whereabouts(place)}")
    for part in import_tables.import_children(connection, place):
        connection.execute(sql.SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(part))
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})").format(TRIPS, place.identifier, key)
    )
    # checked again, now that the locks prevent changes
    staging.refuse_other_partitions(connection, key)
    if staging.attached_row_count(connection, key) != receipt.rows_published:
        raise staging.table_changed(f"a part of loader.import_{key} has lost its rows")
    if target.mode == "replace":
        with import_tables.referenced():
            _replace(connection, key)


def _replace(connection: Connection, import_key: int) -> None:
    """Detach all other imports from trips. This is the last step, because DETACH locks out readers until the commit.

    The import's own ATTACH keeps other sessions from attaching and detaching meanwhile. Imports that are not in trips are
    left alone. An import whose detach is pending is invisible already, and left to its removal.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        others = cursor.execute(
            "SELECT import_key, nspname, relname, inhdetachpending FROM loader.import"
            " JOIN pg_class c ON c.oid = table_oid JOIN pg_namespace n ON n.oid = relnamespace"
            " JOIN pg_inherits ON inhrelid = c.oid"
            " WHERE inhparent = to_regclass('public.trips') AND import_key <> %s ORDER BY import_key",
            [import_key],
        ).fetchall()
    connection.execute(
        "UPDATE loader.import SET state = 'removing' WHERE state = 'published' AND import_key = ANY(%s)",
        [[key for key, *_ in others]],
    )
    for _, schema, name, is_pending in others:
        if not is_pending:
            connection.execute(
                sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(TRIPS, sql.Identifier(schema, name))
            )
