"""Removes imports: rolls back staging, removes published imports, collects what killed loaders left.

Each removal has the same steps and can resume at each of them: mark the row, detach from trips, drop the parts one by one,
drop the rest. It drops only tables that are provably the loader's own: with its OIDs and names, where it attached them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from functools import partial
from typing import Literal

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import tuple_row

from loader import failpoint
from loader.cancellation import Interrupt
from loader.errors import LoaderError
from loader.postgres import import_lock, import_tables, ledger, publish
from loader.postgres.connection import Connection, Database
from loader.postgres.errors import translate
from loader.postgres.import_tables import Place
from loader.postgres.ledger import Import
from loader.postgres.lock_retry import retry_while_locked
from loader.postgres.target_check import TRIPS

# The wait for each lock while tidying: new readers queue behind the waiting session.
_TIDY_LOCK_SECONDS = 0.1


class _TableMoved(Exception):
    """The table of a published import was renamed, moved or attached elsewhere."""

    def __init__(self, place: Place) -> None:
        self.place = place


def mark(connection: Connection, import_key: int, *, published: bool) -> bool:
    """Set an import's state to removing, after waiting for parts in commit; later commits of its parts fail.

    Returns False if the import is gone, or is in trips and `published` is False. Raises IMPORT_DETACHED for a published
    import whose table exists and is not in trips.
    """
    with connection.transaction():
        connection.execute("SELECT FROM loader.import WHERE import_key = %s FOR UPDATE", [import_key])
        found = next(iter(ledger.select_imports(connection, "import_key = %s", [import_key])), None)
        if found is None:
            return False
        if found.state == "published":
            _wait_for_detach(connection)
            place = import_tables.import_place(connection, import_key)
            if place is not None and not place.is_in_trips:
                raise import_tables.detached_error(found, import_tables.whereabouts(place))
            if place is not None and not published:
                return False
        connection.execute(
            "UPDATE loader.import SET state = 'removing', attempt = attempt + 1 WHERE import_key = %s",
            [import_key],
        )
    return True


def remove(
    connection: Connection,
    import_key: int,
    interrupt: Interrupt,
    on_part: Callable[[int, int], None],
    lock_seconds: float,
) -> None:
    """Remove an import that is marked and locked by this session; calls `on_part(parts removed, parts in all)`.

    Each part is dropped in its own transaction, which takes the server 0.2 to 0.4 s per GB. Sessions that read a part
    (pg_dump) are waited for, `lock_seconds` at most. Renamed and moved tables are left alone; if that is a published
    import's own table, the import stays in the ledger. An import that can't leave trips is published again, so that its
    rows and its state agree. Raises Stopped, TABLE_LOCKED, IMPORT_DETACHED, TABLE_REFERENCED.
    """

    def retried(action: Callable[[], None]) -> None:
        with import_tables.referenced():
            retry_while_locked(connection, action, interrupt, lock_seconds)

    try:
        _leave_trips(connection, import_key, partial(retried, partial(_detach, connection, import_key)))
        parts = ledger.parts(connection, import_key)
        for count, part in enumerate(parts):
            interrupt.check()
            on_part(count, len(parts))
            failpoint.hit()
            retried(partial(drop_part, connection, import_key, part))
        failpoint.hit()
        retried(partial(_drop_import, connection, import_key))
        on_part(len(parts), len(parts))
    except _TableMoved as moved:
        _set_published(connection, import_key)
        (found,) = ledger.select_imports(connection, "import_key = %s", [import_key])
        raise import_tables.detached_error(found, import_tables.whereabouts(moved.place)) from moved


def tidy(database: Database, interrupt: Interrupt) -> None:
    """Refresh the statistics of trips and remove the imports in state `removing`, without waiting for locks."""
    with database.connection("tidy") as connection:
        failpoint.hit()
        publish.analyze(connection)
        for left in orphaned(connection, "removing"):
            with contextlib.suppress(LoaderError, psycopg.Error):  # `gc` reports the reason
                remove(connection, left.import_key, interrupt, lambda _part, _parts: None, _TIDY_LOCK_SECONDS)


def drop_part(connection: Connection, import_key: int, part: int) -> None:
    """Drop a part and its rows in the ledger; a table that was renamed, moved or detached is left alone."""
    with connection.transaction():
        parent, was_published = _lock_import(connection, import_key)
        place = import_tables.lock(connection, partial(import_tables.part_place, connection, part))
        if place is not None and import_tables.part_is_own(place, parent, was_published=was_published):
            connection.execute(sql.SQL("DROP TABLE {}").format(place.identifier))
        connection.execute("DELETE FROM loader.part WHERE part = %s", [part])


def _lock_import(connection: Connection, import_key: int) -> tuple[Place | None, bool]:
    """Lock an import's table until the transaction ends; return its place and whether the import was published.

    None: the table was dropped, or the import was never published and its table was moved. Raises _TableMoved for the
    moved table of a published import.
    """
    place = import_tables.lock(connection, partial(import_tables.import_place, connection, import_key))
    (found,) = ledger.select_imports(connection, "import_key = %s", [import_key])
    was_published = found.receipt is not None
    if place is None or (place.has_own_name and place.parent_oid is None):
        return place, was_published
    if was_published:
        raise _TableMoved(place)
    return None, False


def _drop_import(connection: Connection, import_key: int) -> None:
    with connection.transaction():
        place, _ = _lock_import(connection, import_key)
        if place is not None:
            # partitions that others attached: DROP TABLE would drop them, too
            for child in import_tables.import_children(connection, place):
                connection.execute(
                    sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(place.identifier, child)
                )
            connection.execute(sql.SQL("DROP TABLE {}").format(place.identifier))
        connection.execute("DELETE FROM loader.part WHERE import_key = %s", [import_key])
        connection.execute("DELETE FROM loader.import WHERE import_key = %s", [import_key])


def orphaned(connection: Connection, *states: Literal["loading", "removing"]) -> Generator[Import]:
    """Yield each import in one of these states that no loader has locked, locked by this session."""
    for found in ledger.select_imports(connection, "state = ANY(%s)", [list(states)]):
        if import_lock.try_lock(connection, found.import_key):
            yield from ledger.select_imports(
                connection, "state = ANY(%s) AND import_key = %s", [list(states), found.import_key]
            )
            import_lock.unlock(connection, found.import_key)


def _leave_trips(connection: Connection, import_key: int, detach: Callable[[], None]) -> None:
    """Run `detach`. If it fails for a lasting reason, set a published import that is still in trips to published again."""
    try:
        detach()
    except (LoaderError, psycopg.Error) as error:
        failure = error if isinstance(error, LoaderError) else translate(error)
        place = None if failure.failure.retryable else import_tables.import_place(connection, import_key)
        if place is not None and place.is_in_trips and not place.is_being_detached:
            _set_published(connection, import_key)
        raise


def _set_published(connection: Connection, import_key: int) -> None:
    connection.execute(
        "UPDATE loader.import SET state = 'published' WHERE import_key = %s AND receipt IS NOT NULL",
        [import_key],
    )


def _detach(connection: Connection, import_key: int) -> None:
    """Detach the import's table from trips, if it is attached, while other sessions continue to read.

    DETACH CONCURRENTLY runs in two transactions and waits between them for sessions that read already; a wait that is
    aborted leaves the detach pending, and FINALIZE completes it. A table has at most one pending detach, so that of another
    import, whose loader may be gone, is completed first. A trips with a DEFAULT partition allows only the plain DETACH,
    which blocks readers for a moment.
    https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DETACH-PARTITION
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        attached = cursor.execute(
            "SELECT import_key, nspname, relname, inhdetachpending, partdefid <> 0 FROM loader.import"
            " JOIN pg_class c ON c.oid = table_oid JOIN pg_namespace n ON n.oid = relnamespace"
            " JOIN pg_inherits ON inhrelid = c.oid JOIN pg_partitioned_table ON partrelid = inhparent"
            " WHERE inhparent = to_regclass('public.trips')"
            " AND (import_key = %s OR inhdetachpending) ORDER BY inhdetachpending DESC",
            [import_key],
        ).fetchall()
    if import_key not in [key for key, *_ in attached]:
        return
    for _, schema, name, is_pending, has_default in attached:
        how = sql.SQL("FINALIZE" if is_pending else "" if has_default else "CONCURRENTLY")
        # a concurrent removal or replace has detached it
        with contextlib.suppress(pg.UndefinedTable):
            connection.execute(
                sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(
                    TRIPS, sql.Identifier(schema, name), how
                )
            )


def _wait_for_detach(connection: Connection) -> None:
    """Wait until no session is detaching a partition of trips, and prevent it until the transaction ends."""
    if connection.execute("SELECT to_regclass('public.trips') IS NOT NULL").fetchone() == (True,):
        connection.execute("LOCK TABLE ONLY public.trips IN ACCESS SHARE MODE")
