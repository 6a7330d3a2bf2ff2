"""Taking an import away: roll back of staging, removal of a published import, and the collection of what others left.

All are the same steps, resumable at each: mark the row, detach from trips, drop the parts one by one, drop the rest.
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

from loader import claim, ledger, publication
from loader.database import Connection, Database
from loader.errors import LoaderError
from loader.failpoint import reach
from loader.interrupt import Interrupt
from loader.ledger import Import

# Tidying waits this long for a lock that others hold: new readers queue behind it meanwhile.
_TIDY_LOCK_SECONDS = 0.1


def mark(connection: Connection, import_key: int, *, published: bool) -> bool:
    """Put an import into state removing; waits for parts that commit, and defeats later ones.

    Returns False when it is published (and `published` does not allow that) or gone.
    """
    marked = connection.execute(
        "UPDATE loader.import SET state = 'removing', attempt = attempt + 1"
        " WHERE import_key = %s AND (state <> 'published' OR %s)",
        [import_key, published],
    )
    return marked.rowcount == 1


def remove(
    connection: Connection,
    import_key: int,
    interrupt: Interrupt,
    on_part: Callable[[int, int], None],
    lock_seconds: float | None = None,
) -> None:
    """Remove an import that is marked and locked by us, calling `on_part(parts removed, parts in all)`.

    Dropping a part takes the server 0.2 to 0.4 s per GB, each in a transaction of its own. Others who read a part (pg_dump
    does) are waited for, `lock_seconds` or as long as a publish waits. Raises Stopped, TABLE_LOCKED.
    """

    def unlocked(action: Callable[[], None]) -> None:
        publication.with_lock_timeout(connection, action, interrupt, lock_seconds)

    unlocked(partial(_detach, connection, import_key))
    parts = ledger.parts(connection, import_key)
    for count, part in enumerate(parts):
        interrupt.check()
        on_part(count, len(parts))
        reach()
        unlocked(partial(drop_part, connection, import_key, part))
    reach()
    unlocked(partial(_drop_import, connection, import_key))
    on_part(len(parts), len(parts))


def tidy(database: Database, interrupt: Interrupt) -> None:
    """Refresh the statistics of trips and remove what others have left in state `removing`, without waiting for locks."""
    with database.connection("tidy") as connection:
        reach()
        publication.analyze(connection)
        for left in unheld(connection, "removing"):
            with contextlib.suppress(LoaderError, psycopg.Error):  # `gc` says what is in the way
                remove(connection, left.import_key, interrupt, lambda _part, _parts: None, _TIDY_LOCK_SECONDS)


def drop_part(connection: Connection, import_key: int, part: int) -> None:
    """Drop a part and what the ledger says of it."""
    with connection.transaction():
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(ledger.part_table(import_key, part)))
        connection.execute("DELETE FROM loader.part WHERE part = %s", [part])


def _drop_import(connection: Connection, import_key: int) -> None:
    with connection.transaction():
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(ledger.import_table(import_key)))
        connection.execute("DELETE FROM loader.import WHERE import_key = %s", [import_key])


def unheld(connection: Connection, *states: Literal["loading", "removing"]) -> Generator[Import]:
    """Yield, locked by us, each import in one of these states that no loader holds."""
    for found in ledger.select_imports(connection, "state = ANY(%s)", [list(states)]):
        if claim.try_lock(connection, found.import_key):
            yield from ledger.select_imports(
                connection, "state = ANY(%s) AND import_key = %s", [list(states), found.import_key]
            )
            claim.unlock(connection, found.import_key)


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
            "SELECT import_key, inhdetachpending, partdefid <> 0 FROM loader.import"
            " JOIN pg_inherits ON inhrelid = to_regclass(format('loader.import_%%s', import_key))"
            " JOIN pg_partitioned_table ON partrelid = inhparent WHERE inhparent = to_regclass('public.trips')"
            " AND (import_key = %s OR inhdetachpending) ORDER BY inhdetachpending DESC",
            [import_key],
        ).fetchall()
    if import_key not in [key for key, _, _ in attached]:
        return
    for key, is_pending, has_default in attached:
        how = sql.SQL("FINALIZE" if is_pending else "" if has_default else "CONCURRENTLY")
        # no longer in trips: its remover was faster, or a replacement
        with contextlib.suppress(pg.UndefinedTable):
            connection.execute(
                sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(
                    publication.TRIPS, ledger.import_table(key), how
                )
            )
