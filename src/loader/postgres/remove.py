"""Taking an import away: roll back of staging, removal of a published import, and the collection of what others left.

All are the same steps, resumable at each: mark the row, detach from trips, drop the parts one by one, drop the rest.
Only what is proven to be the loader's own is dropped: tables that have its OIDs and names, and hang where it attached them.
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
from loader.postgres.import_tables import Place
from loader.postgres.ledger import Import

# Tidying waits this long for a lock that others hold: new readers queue behind it meanwhile.
_TIDY_LOCK_SECONDS = 0.1


class _TakenAway(Exception):
    """Raised where the table of a published import is no longer as the loader left it."""

    def __init__(self, place: Place) -> None:
        self.place = place


def mark(connection: Connection, import_key: int, *, published: bool) -> bool:
    """Put an import into state removing; waits for parts that commit, and defeats later ones.

    Returns False when it is gone, or in trips and `published` does not allow that. Raises IMPORT_DETACHED for a published
    import that somebody took out of trips, while its table exists.
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
    """Remove an import that is marked and locked by us, calling `on_part(parts removed, parts in all)`.

    Dropping a part takes the server 0.2 to 0.4 s per GB, each in a transaction of its own. Others who read a part (pg_dump
    does) are waited for, `lock_seconds` at most. Tables that somebody renamed or moved are left alone:
    of a published import that is its own table, which then stays in the ledger. Raises Stopped, TABLE_LOCKED,
    IMPORT_DETACHED, TABLE_REFERENCED.
    """

    def unlocked(action: Callable[[], None]) -> None:
        with import_tables.referenced():
            publish.with_lock_timeout(connection, action, interrupt, lock_seconds)

    try:
        unlocked(partial(_detach, connection, import_key))
        parts = ledger.parts(connection, import_key)
        for count, part in enumerate(parts):
            interrupt.check()
            on_part(count, len(parts))
            failpoint.hit()
            unlocked(partial(drop_part, connection, import_key, part))
        failpoint.hit()
        unlocked(partial(_drop_import, connection, import_key))
        on_part(len(parts), len(parts))
    except _TakenAway as taken:
        connection.execute("UPDATE loader.import SET state = 'published' WHERE import_key = %s", [import_key])
        (found,) = ledger.select_imports(connection, "import_key = %s", [import_key])
        raise import_tables.detached_error(found, import_tables.whereabouts(taken.place)) from taken


def tidy(database: Database, interrupt: Interrupt) -> None:
    """Refresh the statistics of trips and remove what others have left in state `removing`, without waiting for locks."""
    with database.connection("tidy") as connection:
        failpoint.hit()
        publish.analyze(connection)
        for left in orphaned(connection, "removing"):
            with contextlib.suppress(LoaderError, psycopg.Error):  # `gc` says what is in the way
                remove(connection, left.import_key, interrupt, lambda _part, _parts: None, _TIDY_LOCK_SECONDS)


def drop_part(connection: Connection, import_key: int, part: int) -> None:
    """Drop a part and what the ledger says of it; a table that somebody took away is left alone."""
    with connection.transaction():
        parent, was_published = _lock_import(connection, import_key)
        place = import_tables.lock(connection, partial(import_tables.part_place, connection, part))
        if place is not None and import_tables.part_is_own(place, parent, was_published=was_published):
            connection.execute(sql.SQL("DROP TABLE {}").format(place.identifier))
        connection.execute("DELETE FROM loader.part WHERE part = %s", [part])


def _lock_import(connection: Connection, import_key: int) -> tuple[Place | None, bool]:
    """Lock an import's table until the transaction ends; return where it is, and whether the import was published.

    None: the table was dropped or, of an import that was never published, taken away. Raises _TakenAway for the others.
    """
    place = import_tables.lock(connection, partial(import_tables.import_place, connection, import_key))
    (found,) = ledger.select_imports(connection, "import_key = %s", [import_key])
    was_published = found.receipt is not None
    if place is None or (place.has_own_name and place.parent_oid is None):
        return place, was_published
    if was_published:
        raise _TakenAway(place)
    return None, False


def _drop_import(connection: Connection, import_key: int) -> None:
    with connection.transaction():
        place, _ = _lock_import(connection, import_key)
        if place is not None:
            for child in import_tables.import_children(
                connection, place
            ):  # somebody else's: DROP would drop it, too
                connection.execute(
                    sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(place.identifier, child)
                )
            connection.execute(sql.SQL("DROP TABLE {}").format(place.identifier))
        connection.execute("DELETE FROM loader.part WHERE import_key = %s", [import_key])
        connection.execute("DELETE FROM loader.import WHERE import_key = %s", [import_key])


def orphaned(connection: Connection, *states: Literal["loading", "removing"]) -> Generator[Import]:
    """Yield, locked by us, each import in one of these states that no loader holds."""
    for found in ledger.select_imports(connection, "state = ANY(%s)", [list(states)]):
        if import_lock.try_lock(connection, found.import_key):
            yield from ledger.select_imports(
                connection, "state = ANY(%s) AND import_key = %s", [list(states), found.import_key]
            )
            import_lock.unlock(connection, found.import_key)


def _detach(connection: Connection, import_key: int) -> None:
    """Take the import's table out of trips, if it is in it, while others go on reading.

    DETACH CONCURRENTLY works in two transactions and waits between them for readers that began before; a wait that
    ends too early leaves the detach pending, which FINALIZE completes. A table can have only one pending: that of another
    import, whose remover may be gone, is completed first. A trips to which somebody gave a DEFAULT partition knows only
    the plain one, which has readers wait for a moment.
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
        # no longer in trips: its remover was faster, or a replacement
        with contextlib.suppress(pg.UndefinedTable):
            connection.execute(
                sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(
                    publish.TRIPS, sql.Identifier(schema, name), how
                )
            )


def _wait_for_detach(connection: Connection) -> None:
    """Wait until nobody is detaching a partition of trips, and keep it so until the transaction ends."""
    if connection.execute("SELECT to_regclass('public.trips') IS NOT NULL").fetchone() == (True,):
        connection.execute("LOCK TABLE ONLY public.trips IN ACCESS SHARE MODE")
