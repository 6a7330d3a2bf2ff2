"""Creates the ledger, upgrades an older one, and keeps its OIDs valid.

The ledger identifies tables by OID: a rename keeps it, and no other table gets it. A restored dump has other OIDs; they
are looked up once, by the names that the loader gives.
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
# The key of the advisory lock that serializes loaders which create the ledger or trips, or upgrade the ledger.
CREATE_LOCK = 0x74726970
# Loaders of the older version lock the ledger while they fill a part: minutes. Waiting longer would block new loaders.
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
# pg_upgrade creates another system with the same OIDs, and only the OID identifies a renamed table.
_HAS_SAME_OIDS = (
    "SELECT split_part(oid_scope, '/', 3) = 'loader.ledger'::regclass::oid::text FROM loader.ledger"
)


class _Found(msgspec.Struct, frozen=True):
    version: int
    has_our_oids: bool


def upgrade(connection: Connection, lock_seconds: int = _LOCK_SECONDS) -> bool:
    """Upgrade the ledger to VERSION and to this database's OIDs; return whether the database has one.

    Raises DATABASE_UNSUPPORTED if it is newer than VERSION, IMPORT_BUSY while loaders of the older version run.
    """
    if _is_current(connection):
        return True
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{lock_seconds}s'".encode())
            _lock_creation(connection)
            return _upgrade_locked(connection)
    except pg.LockNotAvailable as error:
        raise LoaderError(
            FailureCode.IMPORT_BUSY,
            "The ledger can't be upgraded while loaders of an older version load into this database.",
            "Wait for them, or stop them, then run the command again.",
        ) from error


def create(connection: Connection) -> None:
    """Create the ledger unless it exists, in the caller's transaction.

    Raises DATABASE_CONFIGURATION if a schema `loader` exists that has other objects in it.
    """
    _lock_creation(connection)
    if not _exists(connection, "import"):
        if not _has_empty_schema(connection):
            connection.execute("CREATE SCHEMA loader")
        connection.execute(resources.files("loader.postgres").joinpath("ledger.sql").read_bytes())
        _adopt_tables(connection)


def require_rights(connection: Connection) -> None:
    """Raise DATABASE_RIGHTS if there is a schema `loader` in which the role may not create tables."""
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
            f"Connect as {owner}. If the schema is empty, you can run this SQL instead: {grant.as_string(connection)}",
        )


def _has_empty_schema(connection: Connection) -> bool:
    """Whether an empty schema `loader` exists; raises DATABASE_CONFIGURATION if it is not empty."""
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
            f"The schema loader has no complete ledger, and is not empty: {', '.join(str(name) for (name,) in foreign)}.",
            "Move these objects to another schema, or restore the ledger from a backup, then run the command again.",
        )
    return True


def _lock_creation(connection: Connection) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [CREATE_LOCK])


def _is_current(connection: Connection) -> bool:
    """Whether the ledger exists and needs no upgrade; raises DATABASE_UNSUPPORTED."""
    if not _exists(connection, "ledger"):
        return False
    with connection.cursor(row_factory=args_row(_Found)) as cursor:
        found = cursor.execute(
            f"SELECT version, oid_scope = {_SCOPE} FROM loader.ledger".encode()
        ).fetchall()[0]
    if found.version > VERSION:
        raise LoaderError(
            FailureCode.DATABASE_UNSUPPORTED,
            f"The ledger in this database has version {found.version}; this program supports versions up to {VERSION}.",
            "Use the newer version of this program that upgraded it.",
        )
    return found.version == VERSION and found.has_our_oids


def _upgrade_locked(connection: Connection) -> bool:
    if not _exists(connection, "import"):
        return False
    if not _exists(connection, "ledger"):
        connection.execute(resources.files("loader.postgres").joinpath("ledger_from_1.sql").read_bytes())
    if not _is_current(connection):
        _adopt_tables(connection)
    return True


def _adopt_tables(connection: Connection) -> None:
    """Look up the tables by the names that the loader gives them, and record the scope of their OIDs.

    A table that is not found gets no OID: its old OID may be that of any table.
    """
    if connection.execute(_HAS_SAME_OIDS).fetchone() != (True,):
        connection.execute(_ADOPT_IMPORTS)
        connection.execute(_ADOPT_PARTS)
    connection.execute(f"UPDATE loader.ledger SET oid_scope = {_SCOPE}".encode())


def _exists(connection: Connection, table: str) -> bool:
    """Whether the ledger has a table, in the statement's snapshot.

    to_regclass reads the session's cache, which a wait for an advisory lock does not refresh.
    """
    return connection.execute(
        "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname = 'loader' AND relname = %s)",
        [table],
    ).fetchone() == (True,)
