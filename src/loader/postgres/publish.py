"""From parts to visible rows: the import's table, its parts attached, and the one transaction that publishes it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from functools import partial

import msgspec
import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import scalar_row, tuple_row

from loader import failpoint
from loader.cancellation import Interrupt
from loader.contract import FailureCode, Receipt
from loader.errors import LoaderError
from loader.limits import Limits
from loader.postgres import import_lock, import_tables, indexing, ledger, target_table
from loader.postgres.connection import Connection
from loader.postgres.errors import server_message
from loader.postgres.target_notes import ANALYZE_ONLY_SERVER
from loader.postgres.target_table import STATISTICS_TARGET

TRIPS = sql.Identifier("public", "trips")
# A statement that needs a lock on trips waits this long at first, because new readers queue behind it while it waits.
_LOCK_TIMEOUT_SECONDS = 1.0
# Each failed try doubles the wait, up to this: a lock comes free only if the wait is longer than the readers that overlap.
# New readers wait no longer than this; between two tries they pass for as long as the last try took.
_MAX_LOCK_TIMEOUT_SECONDS = 8.0
# Classes of SQLSTATE that a publish meets where trips is gone or altered, or has a constraint that no import can have.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TABLE_CHANGED_CLASSES = ("0A", "42")


@contextlib.contextmanager
def _altered() -> Generator[None]:
    """Raise TABLE_CHANGED where a statement fails because trips, or the import's own table, is altered or gone."""
    try:
        yield
    except pg.InsufficientPrivilege:
        raise
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] not in _TABLE_CHANGED_CLASSES:
            raise
        raise table_changed(server_message(error)) from error


def create_import_table(
    connection: Connection, import_key: int, interrupt: Interrupt, limits: Limits
) -> None:
    """Make the import's table unless an earlier attempt has: like trips, with its key fixed, partitioned by part.

    One that somebody has dropped, renamed or moved is made anew. Raises TABLE_LOCKED, TABLE_MISMATCH, Stopped.
    """
    table = ledger.import_table(import_key)

    def create() -> None:
        with connection.transaction():
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
        with_lock_timeout(connection, create, interrupt, limits.trips_lock_seconds)
    except pg.FeatureNotSupported as error:
        raise LoaderError(
            FailureCode.TABLE_MISMATCH,
            f"trips has an index or a constraint that no import can have: {error.diag.message_primary}.",
            "What is unique must include both keys, import_key and part. Drop it, then run the command again.",
        ) from error
    except pg.DuplicateTable as error:
        raise import_tables.name_taken(f"loader.import_{import_key}") from error


@_altered()
def attach_parts(connection: Connection, import_key: int, interrupt: Interrupt, limits: Limits) -> None:
    """Attach the parts to the import's table, unless an earlier attempt has; a short transaction each.

    Raises TABLE_LOCKED when others read a part (pg_dump does) for longer than `staging_lock_seconds`, TABLE_CHANGED when
    somebody has taken a part away, Stopped.
    """
    attach = partial(_attach_parts, connection, import_key)
    with_lock_timeout(connection, attach, interrupt, limits.staging_lock_seconds)
    _refuse_other_parts(connection, import_key)


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


@_altered()
def build_indexes(
    connection: Connection,
    import_key: int,
    interrupt: Interrupt,
    limits: Limits,
    on_progress: Callable[[int, int], None],
) -> None:
    """Build what trips has got in indexes since the import's table was made; see indexing.build_missing.

    Raises TABLE_CHANGED, TABLE_LOCKED, Stopped.
    """
    _refuse_changed_table(connection, import_key)

    def build(action: Callable[[], None]) -> None:
        interrupt.check()
        with_lock_timeout(connection, action, interrupt, limits.trips_lock_seconds)

    indexing.build_missing(connection, import_key, build, on_progress)


@_altered()
def attached_row_count(connection: Connection, import_key: int) -> int:
    """Return how many rows are in the parts that a publish shows: partitions of the import's table that are not empty.

    Reads one row of each part. A part all of whose rows were deleted is read whole.
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


@_altered()
def publish(
    connection: Connection,
    attempt: import_lock.Attempt,
    target: import_lock.Target,
    receipt: Receipt,
    interrupt: Interrupt,
    limits: Limits,
) -> None:
    """Make all rows of the import visible at once, in the transaction that also stores the receipt.

    Its parts must be attached. To publish is to lock them: who reads them is waited for first, `staging_lock_seconds`
    at most. Raises ALREADY_IMPORTED, IMPORT_BUSY, TABLE_CHANGED, TABLE_MISMATCH (a row breaks a
    constraint), TABLE_LOCKED, Stopped; IndexMissing when trips has got an index since `build_indexes`. When the
    connection is lost during the commit, the ledger alone knows the answer.
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

    _refuse_changed_table(connection, attempt.import_key)
    with_lock_timeout(connection, lock_own_tables, interrupt, limits.staging_lock_seconds)
    with_lock_timeout(connection, transaction, interrupt, limits.trips_lock_seconds)


def analyze(connection: Connection) -> None:
    """Refresh the statistics of trips as a whole; those of the parts are there. Nothing depends on its success."""
    if connection.info.server_version < ANALYZE_ONLY_SERVER:
        return  # it would read every part of every import once more; a note says so
    with contextlib.suppress(psycopg.Error):
        connection.execute(f"SET default_statistics_target = {STATISTICS_TARGET}".encode())
        _set_lock_timeout(connection, _LOCK_TIMEOUT_SECONDS)
        connection.execute("ANALYZE ONLY public.trips")


def with_lock_timeout(
    connection: Connection, action: Callable[[], None], interrupt: Interrupt, budget_seconds: float
) -> None:
    """Do what needs a lock on trips or a part, again and again while others hold it; readers pass between two tries.

    A table can have only one pending detach, so that of another session counts as a lock (SQLSTATE 55000). Raises
    TABLE_LOCKED after `budget_seconds`, Stopped.
    """
    deadline = time.monotonic() + budget_seconds
    timeout_seconds = min(_LOCK_TIMEOUT_SECONDS, budget_seconds)
    while True:
        _set_lock_timeout(connection, timeout_seconds)
        try:
            action()
        except (pg.LockNotAvailable, pg.DeadlockDetected, pg.ObjectNotInPrerequisiteState) as error:
            if isinstance(error, pg.ObjectNotInPrerequisiteState) and not _is_detach_pending(connection):
                raise  # not a lock: publications, for instance, refuse changes of tables without a key
            if time.monotonic() > deadline:
                raise LoaderError(
                    FailureCode.TABLE_LOCKED,
                    f"Other sessions kept trips, or a part of it, locked for {budget_seconds:.0f} s.",
                    "Find them in pg_locks (a long report, pg_dump, an open transaction), then run the command again.",
                ) from error
            interrupt.sleep(timeout_seconds)
            timeout_seconds = min(2 * timeout_seconds, _MAX_LOCK_TIMEOUT_SECONDS)
        else:
            _set_lock_timeout(connection, 0)
            return


def _is_detach_pending(connection: Connection) -> bool:
    """Whether trips or an import has a partition that somebody has begun to detach."""
    return connection.execute(
        "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending AND (inhparent = to_regclass('public.trips')"
        " OR inhparent IN (SELECT table_oid FROM loader.import)))"
    ).fetchone() == (True,)


def table_changed(what: str) -> LoaderError:
    """Return the error for a trips that is no longer as the import found it."""
    return LoaderError(
        FailureCode.TABLE_CHANGED,
        f"The table trips was altered during the import: {what}.",
        "Undo the change and run the command again to publish what is loaded; or `loader drop` the import.",
    )


def _set_lock_timeout(connection: Connection, seconds: float) -> None:
    connection.execute(f"SET lock_timeout = '{round(1000 * seconds)}ms'".encode())


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
    # the lock that the attach takes, too: nobody else creates an index meanwhile
    connection.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(TRIPS))
    indexing.refuse_missing(connection, key)
    place = import_tables.import_place(connection, key)
    if place is None or not place.has_own_name or place.parent_oid is not None:
        raise table_changed(f"of the import, {import_tables.whereabouts(place)}")
    for part in import_tables.import_children(connection, place):
        connection.execute(sql.SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(part))
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})").format(TRIPS, place.identifier, key)
    )
    # once more: now nobody can change them, since all are locked
    _refuse_other_parts(connection, key)
    if attached_row_count(connection, key) != receipt.rows_published:
        raise table_changed(f"a part of loader.import_{key} has lost its rows")
    if target.mode == "replace":
        with import_tables.referenced():
            _replace(connection, key)


def _replace(connection: Connection, import_key: int) -> None:
    """Take all other imports out of trips. Last, because from here on readers wait: DETACH locks them out.

    Our own attach keeps others from attaching and detaching meanwhile. Imports that are not in trips are left alone. One
    whose detach is pending is out of sight, and left to its removal.
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


def _refuse_other_parts(connection: Connection, import_key: int) -> None:
    if not import_tables.has_its_parts(connection, import_key):
        raise table_changed(
            f"the partitions of loader.import_{import_key} are not the parts that the loader attached"
        )


def _refuse_changed_table(connection: Connection, import_key: int) -> None:
    now = {row[0]: row for row in target_table.columns(connection, "public.trips")}
    then = {row[0]: row for row in target_table.columns(connection, f"loader.import_{import_key}")}
    if changed := [str(name) for name in now.keys() | then.keys() if now.get(name) != then.get(name)]:
        raise table_changed(f"column {', '.join(sorted(changed))}")
