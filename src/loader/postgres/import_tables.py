"""Where the tables of imports and parts are: found by OID, since names can be given to other tables.

People rename, move, detach and drop tables. A table is the loader's own to change or drop only while it has the name that
the loader gave it and hangs where the loader attached it.
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
    " coalesce(p.inhparent = to_regclass('public.trips'), false), p.inhparent::regclass::text"
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
    """Where a table is in the catalog now."""

    oid: int
    schema: str
    name: str
    has_own_name: bool  # schema and name are those that the loader gave
    parent_oid: int | None  # of the table of which it is a partition, also while it is being detached
    is_in_trips: bool  # that table is public.trips
    parent: str | None  # its name, as SQL shows it

    @property
    def identifier(self) -> sql.Identifier:
        """Its name, to be put into a statement."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Missing(msgspec.Struct, frozen=True):
    """What of a published import is no longer in trips."""

    is_all: bool  # no row of it is in trips
    what: str  # a clause for a message


def import_place(connection: Connection, import_key: int) -> Place | None:
    """Return where an import's table is; None: it was dropped, or is not made yet."""
    with connection.cursor(row_factory=args_row(Place)) as cursor:
        statement = f"{_SELECT_IMPORT} WHERE t.import_key = %s".encode()
        return cursor.execute(statement, [import_key]).fetchone()


def part_place(connection: Connection, part: int) -> Place | None:
    """Return where a part's table is; None: it was dropped."""
    with connection.cursor(row_factory=args_row(Place)) as cursor:
        return cursor.execute(f"{_SELECT_PART} WHERE t.part = %s".encode(), [part]).fetchone()


def lock(connection: Connection, find: Callable[[], Place | None]) -> Place | None:
    """Lock the table that `find` finds against everybody, until the caller's transaction ends; return where it is then.

    A lock is by name, so that the table may have been renamed meanwhile: then it is looked for again.
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
    """Return the partitions of an import's table, whoever attached them."""
    found = connection.execute(
        "SELECT nspname, relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
        " JOIN pg_namespace n ON n.oid = relnamespace WHERE inhparent = %s",
        [place.oid],
    ).fetchall()
    return [sql.Identifier(str(schema), str(name)) for schema, name in found]


def part_is_own(part: Place, parent: Place | None, *, was_published: bool) -> bool:
    """Whether a part may be dropped with its import: nobody has renamed, moved or detached it.

    Of an import that was never published, a part that is not attached yet is the loader's own, too.
    """
    is_staged = part.parent_oid is None and not was_published
    return part.has_own_name and (is_staged or _is_attached(part, parent))


def lost_parts(connection: Connection, import_key: int) -> list[int]:
    """Return the staged parts that the import has no more: somebody dropped them, or took them away before the attach.

    A part that is attached is the import's whatever its name.
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
    """Whether the partitions of an import's table are its parts, all of them and nothing else."""
    differing = connection.execute(
        "WITH parts AS (SELECT table_oid FROM loader.part WHERE import_key = %(key)s), partitions AS ("
        " SELECT inhrelid FROM pg_inherits JOIN loader.import ON inhparent = table_oid WHERE import_key = %(key)s)"
        " SELECT FROM parts FULL JOIN partitions ON inhrelid = table_oid WHERE inhrelid IS NULL OR table_oid IS NULL",
        {"key": import_key},
    )
    return differing.fetchone() is None


def name_taken(name: str) -> LoaderError:
    """Return the error for a name that the loader needs and that belongs to a table it has not made."""
    return LoaderError(
        FailureCode.TABLE_MISMATCH,
        f"The table {name} exists, and the loader did not make it for this import.",
        "Rename that table or move it to another schema, then run the command again.",
    )


def find_missing(connection: Connection, published: Import) -> Missing | None:
    """Return what of a published import is no longer in trips; None: each of its parts is there and has rows.

    Reads one row of each part. A part all of whose rows were deleted is read whole, unless a VACUUM has emptied it.
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
    """Return a clause that says where the table of an import is that is not in trips."""
    if place is None:
        return "its table was dropped"
    if place.parent is not None:
        return f"its table is now {place}, a partition of {place.parent}"
    return f"its table is now {place}, detached from trips"


def detached_error(found: Import, what: str) -> LoaderError:
    """Return the error for a published import that somebody has taken out of trips."""
    return LoaderError(
        FailureCode.IMPORT_DETACHED,
        f"Import {found.id} is published, but no longer in trips as it was: {what}.",
        "The loader leaves alone what somebody took out of trips. Drop the table yourself if you do not need it, then"
        " `loader drop` removes the record; or attach it to trips again. To load the file again, use another import id.",
    )


@contextlib.contextmanager
def referenced() -> Generator[None]:
    """Raise TABLE_REFERENCED where another object of the database keeps a table from being dropped or detached."""
    try:
        yield
    except (pg.ForeignKeyViolation, pg.DependentObjectsStillExist) as error:
        detail = error.diag.message_detail or ""
        raise LoaderError(
            FailureCode.TABLE_REFERENCED,
            f"The tables of an import are in use by other objects: {error.diag.message_primary}. {detail}".strip(),
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
        return True  # somebody works with it
