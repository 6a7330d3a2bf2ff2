"""Finds the tables of imports and parts in the catalog, by OID: operators rename, move, detach and drop tables.

The loader changes or drops a table only while it has the name that the loader gave it, and is attached where the loader
attached it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence

import msgspec
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import args_row, scalar_row

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres.connection import Connection
from loader.postgres.ledger import Import, parts

_PLACE = (
    "c.oid, n.nspname, c.relname, n.nspname = 'loader' AND c.relname = format({name}), p.inhparent,"
    " coalesce(p.inhparent = to_regclass('public.trips'), false), coalesce(p.inhdetachpending, false),"
    " p.inhparent::regclass::text"
)
_FROM_CATALOG = (
    " JOIN pg_class c ON c.oid = t.table_oid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " LEFT JOIN pg_inherits p ON p.inhrelid = c.oid"
)
_SELECT_IMPORT = (
    "SELECT " + _PLACE.format(name="'import_%%s', t.import_key") + " FROM loader.import t" + _FROM_CATALOG
)
_SELECT_PART = (
    "SELECT "
    + _PLACE.format(name="'import_%%s_part_%%s', t.import_key, t.part")
    + " FROM loader.part t"
    + _FROM_CATALOG
)


class Place(msgspec.Struct, frozen=True):
    """A table's current place in the catalog."""

    oid: int
    schema: str
    name: str
    has_own_name: bool  # schema and name are those that the loader gave it
    parent_oid: int | None  # of the table whose partition it is, also while it is being detached
    is_in_trips: bool  # its parent is public.trips
    is_being_detached: bool  # a detach is pending: new queries don't see it
    parent: str | None  # the parent's name, as SQL shows it

    @property
    def identifier(self) -> sql.Identifier:
        """Its name, for a statement."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Missing(msgspec.Struct, frozen=True):
    """The parts of a published import that are no longer in trips."""

    is_all: bool  # none of its rows is in trips
    what: str  # a clause for a message


def import_place(connection: Connection, import_key: int) -> Place | None:
    """Return the place of an import's table; None: it was dropped, or is not created yet."""
    with connection.cursor(row_factory=args_row(Place)) as cursor:
        statement = f"{_SELECT_IMPORT} WHERE t.import_key = %s".encode()
        return cursor.execute(statement, [import_key]).fetchone()


def part_place(connection: Connection, part: int) -> Place | None:
    """Return the place of a part's table; None: it was dropped."""
    with connection.cursor(row_factory=args_row(Place)) as cursor:
        return cursor.execute(f"{_SELECT_PART} WHERE t.part = %s".encode(), [part]).fetchone()


def lock(connection: Connection, find: Callable[[], Place | None]) -> Place | None:
    """Lock the table that `find` returns in ACCESS EXCLUSIVE mode until the caller's transaction ends; return its place.

    LOCK TABLE takes a name, and the table may be renamed before it is locked: then `find` is called again.
    """
    while (found := find()) is not None:
        try:
            with connection.transaction():
                connection.execute(
                    sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(found.identifier)
                )
        except (pg.UndefinedTable, pg.InvalidSchemaName):
            continue
        if find() == found:
            return found
    return None


def import_children(connection: Connection, place: Place) -> Sequence[sql.Identifier]:
    """Return all partitions of an import's table, including those that the loader did not attach."""
    found = connection.execute(
        "SELECT nspname, relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
        " JOIN pg_namespace n ON n.oid = relnamespace WHERE inhparent = %s",
        [place.oid],
    ).fetchall()
    return [sql.Identifier(str(schema), str(name)) for schema, name in found]


def part_is_own(part: Place, parent: Place | None, *, was_published: bool) -> bool:
    """Whether a part may be dropped with its import: it was not renamed, moved or detached.

    A part of an import that was never published is the loader's own before it is attached, too.
    """
    is_staged = part.parent_oid is None and not was_published
    return part.has_own_name and (is_staged or _is_attached(part, parent))


def lost_parts(connection: Connection, import_key: int) -> list[int]:
    """Return the staged parts that the import has lost: they were dropped, or renamed or moved before the attach.

    An attached part belongs to the import whatever its name.
    """
    parent = import_place(connection, import_key)
    places = {part: part_place(connection, part) for part in parts(connection, import_key)}
    return [
        part
        for part, place in places.items()
        if place is None
        or not (_is_attached(place, parent) or part_is_own(place, parent, was_published=False))
    ]


def has_its_parts(connection: Connection, import_key: int) -> bool:
    """Whether the partitions of an import's table are exactly its parts."""
    differing = connection.execute(
        "WITH parts AS (SELECT table_oid FROM loader.part WHERE import_key = %(key)s), partitions AS ("
        " SELECT inhrelid FROM pg_inherits JOIN loader.import ON inhparent = table_oid WHERE import_key = %(key)s)"
        " SELECT FROM parts FULL JOIN partitions ON inhrelid = table_oid WHERE inhrelid IS NULL OR table_oid IS NULL",
        {"key": import_key},
    )
    return differing.fetchone() is None


def name_taken(name: str) -> LoaderError:
    """Return the error for a name that the loader needs and another table has."""
    return LoaderError(
        FailureCode.TABLE_MISMATCH,
        f"The table {name} exists, and the loader did not create it for this import.",
        "Rename that table or move it to another schema, then run the command again.",
    )


def find_missing(connection: Connection, published: Import) -> Missing | None:
    """Return the parts of a published import that are no longer in trips; None: each part is attached and has rows.

    Reads one row of each part. A part whose rows were all deleted is read whole, unless a VACUUM has truncated it.
    """
    place = import_place(connection, published.import_key)
    if place is None or not place.is_in_trips:
        return Missing(is_all=True, what=whereabouts(place))
    with connection.cursor(row_factory=scalar_row) as cursor:
        filled: list[int] = cursor.execute(
            "SELECT part FROM loader.part WHERE import_key = %s AND row_count > 0", [published.import_key]
        ).fetchall()
    missing = [part for part in filled if not _has_rows(connection, part, place)]
    if not missing:
        return None
    what = f"{len(missing):,} of its {len(filled):,} parts are empty, dropped or moved elsewhere"
    return Missing(is_all=len(missing) == len(filled), what=what)


def whereabouts(place: Place | None) -> str:
    """Return a clause for a message: the place of an import's table that is not in trips."""
    if place is None:
        return "its table was dropped"
    if place.parent is not None:
        return f"its table is now {place}, a partition of {place.parent}"
    return f"its table is now {place}, detached from trips"


def detached_error(found: Import, what: str) -> LoaderError:
    """Return the error for a published import whose table or rows were taken out of trips."""
    return LoaderError(
        FailureCode.IMPORT_DETACHED,
        f"Import {found.id} is published, but no longer in trips as it was: {what}.",
        "The loader changes no table that was taken out of trips. Attach it to trips again; or drop it yourself, then"
        " `loader drop` removes the record. To load the file again, use another import id.",
    )


@contextlib.contextmanager
def referenced() -> Generator[None]:
    """Raise TABLE_REFERENCED if another object of the database prevents the DROP or DETACH of a table."""
    try:
        yield
    except (pg.ForeignKeyViolation, pg.DependentObjectsStillExist) as error:
        detail = error.diag.message_detail or ""
        raise LoaderError(
            FailureCode.TABLE_REFERENCED,
            f"Other objects depend on a table of the import: {error.diag.message_primary}. {detail}".strip(),
            # not the server's hint: it recommends CASCADE, for the loader's own statement
            "Drop the view, function or constraint that is named, or delete the rows that refer to the import; then run the"
            " command again.",
        ) from error


def _is_attached(part: Place, parent: Place | None) -> bool:
    return parent is not None and part.parent_oid == parent.oid


def _has_rows(connection: Connection, part: int, parent: Place) -> bool:
    place = part_place(connection, part)
    if place is None or not _is_attached(place, parent):
        return False
    try:
        with connection.transaction():
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT").format(place.identifier))
            exists = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(place.identifier)
            return connection.execute(exists).fetchone() == (True,)
    except pg.UndefinedTable:
        return False
    except pg.LockNotAvailable:
        return True  # another session has it locked, so it can't be read now
