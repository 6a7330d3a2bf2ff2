"""The ledger's version: makes the ledger, brings an older one up to date, and keeps its OIDs those of this database.

Tables are known by OID: a rename keeps it, and no other table gets it. A dump that is restored has other OIDs, which are
then looked up once, by the names that the loader gives.
"""

from __future__ import annotations

from importlib import resources

import msgspec
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import args_row

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres.connection import Connection

VERSION = 2
# Serializes loaders that make the ledger or trips, or bring the ledger up to date.
MAKE_LOCK = 0x74726970
# Loaders of the older version hold locks on the ledger as long as they fill a part: minutes. Waiting blocks new ones.
_LOCK_SECONDS = 10

_SCOPE = (
    "(SELECT format('%s/%s/%s', system_identifier,"
    " (SELECT oid FROM pg_database WHERE datname = current_database()), 'loader.ledger'::regclass::oid)"
    " FROM pg_control_system())"
)
_ADOPT_IMPORTS = (
    "UPDATE loader.import SET table_oid = (SELECT oid FROM pg_class"
    " WHERE oid = to_regclass(format('loader.import_%s', import_key)) AND relkind = 'p')"
)
_ADOPT_PARTS = (
    "UPDATE loader.part SET table_oid = (SELECT oid FROM pg_class"
    " WHERE oid = to_regclass(format('loader.import_%s_part_%s', import_key, part)) AND relkind = 'r')"
)
# pg_upgrade makes another system with the same OIDs; renamed tables are known by nothing else.
_HAS_SAME_OIDS = (
    "SELECT split_part(oid_scope, '/', 3) = 'loader.ledger'::regclass::oid::text FROM loader.ledger"
)


class _Found(msgspec.Struct, frozen=True):
    version: int
    has_our_oids: bool


def bring_up_to_date(connection: Connection, lock_seconds: int = _LOCK_SECONDS) -> bool:
    """Return whether the database has a ledger, after bringing it to VERSION and to this database's OIDs.

    Raises DATABASE_UNSUPPORTED when it is newer than VERSION, IMPORT_BUSY while loaders of the older version work.
    """
    if _is_current(connection):
        return True
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{lock_seconds}s'".encode())
            _lock_making(connection)
            return _upgrade(connection)
    except pg.LockNotAvailable as error:
        raise LoaderError(
            FailureCode.IMPORT_BUSY,
            "The ledger can't be brought up to date while loaders of an older version load into this database.",
            "Let them finish, or stop them, then run the command again.",
        ) from error


def make(connection: Connection) -> None:
    """Make the ledger unless it is there, in the caller's transaction.

    Raises DATABASE_CONFIGURATION when somebody has made a schema `loader` with other things in it.
    """
    _lock_making(connection)
    if not _exists(connection, "import"):
        if not _has_empty_schema(connection):
            connection.execute("CREATE SCHEMA loader")
        connection.execute(resources.files("loader.postgres").joinpath("ledger.sql").read_bytes())
        _adopt_tables(connection)


def require_rights(connection: Connection) -> None:
    """Raise DATABASE_RIGHTS when there is a schema `loader` in which the role may not create tables."""
    refused = connection.execute(
        "SELECT current_user, pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'loader' AND NOT"
        " (has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE'))"
    ).fetchone()
    if refused is not None:
        role, owner = refused
        grant = sql.SQL("GRANT USAGE, CREATE ON SCHEMA loader TO {};").format(sql.Identifier(str(role)))
        raise LoaderError(
            FailureCode.DATABASE_RIGHTS,
            f"The schema loader belongs to {owner}, and the role {role} may not create tables in it.",
            f"Connect as {owner}. If the schema is empty, this SQL will do, too: {grant.as_string(connection)}",
        )


def _has_empty_schema(connection: Connection) -> bool:
    """Whether somebody has made a schema `loader` for us; raises DATABASE_CONFIGURATION when it is not empty."""
    if connection.execute("SELECT to_regnamespace('loader')").fetchone() == (None,):
        return False
    foreign = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'loader'::regnamespace"
        " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'loader'::regnamespace"
        " UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'loader'::regnamespace AND typrelid = 0 AND typelem = 0"
        " ORDER BY 1 LIMIT 5"
    ).fetchall()
    if foreign:
        raise LoaderError(
            FailureCode.DATABASE_CONFIGURATION,
            f"The schema loader is not empty, and holds no whole ledger: {', '.join(str(name) for (name,) in foreign)}.",
            "Move what is in it to another schema, or restore the ledger from a backup, then run the command again.",
        )
    return True


def _lock_making(connection: Connection) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [MAKE_LOCK])


def _is_current(connection: Connection) -> bool:
    """Whether there is nothing to do; raises DATABASE_UNSUPPORTED."""
    if not _exists(connection, "ledger"):
        return False
    with connection.cursor(row_factory=args_row(_Found)) as cursor:
        found = cursor.execute(
            f"SELECT version, oid_scope = {_SCOPE} FROM loader.ledger".encode()
        ).fetchall()[0]
    if found.version > VERSION:
        raise LoaderError(
            FailureCode.DATABASE_UNSUPPORTED,
            f"The ledger in this database has version {found.version}; this program knows versions up to {VERSION}.",
            "Use the newer version of this program that upgraded it.",
        )
    return found.version == VERSION and found.has_our_oids


def _upgrade(connection: Connection) -> bool:
    if not _exists(connection, "import"):
        return False
    if not _exists(connection, "ledger"):
        connection.execute(resources.files("loader.postgres").joinpath("ledger_from_1.sql").read_bytes())
    if not _is_current(connection):
        _adopt_tables(connection)
    return True


def _adopt_tables(connection: Connection) -> None:
    """Look the tables up by the names that the loader gives them, and record whose OIDs these are.

    One that is not found by its name has no OID then: an old OID may be that of any table.
    """
    if connection.execute(_HAS_SAME_OIDS).fetchone() != (True,):
        connection.execute(_ADOPT_IMPORTS)
        connection.execute(_ADOPT_PARTS)
    connection.execute(f"UPDATE loader.ledger SET oid_scope = {_SCOPE}".encode())


def _exists(connection: Connection, table: str) -> bool:
    """Whether the ledger has a table, as the statement's snapshot sees it.

    to_regclass answers from the session's cache, which a wait for an advisory lock does not bring up to date.
    """
    return connection.execute(
        "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname = 'loader' AND relname = %s)",
        [table],
    ).fetchone() == (True,)
