"""Prepares the target database: checks the server, creates `trips` and the ledger where they are missing."""

from __future__ import annotations

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres import ledger_version, target_check
from loader.postgres.connection import Connection
from loader.schema import COLUMNS, POSTGRES_TYPES

OLDEST_SERVER = 150000
# Encodings that store UTF-8 unchanged. https://www.postgresql.org/docs/current/multibyte.html
_ENCODINGS = ("UTF8", "SQL_ASCII")

# ANALYZE reads 300 rows for each unit of the target: enough for a planner, and milliseconds for any part.
STATISTICS_TARGET = 10

_CREATE_TRIPS = f"""
CREATE TABLE public.trips (
    {", ".join(f"{column.name} {POSTGRES_TYPES[column.kind]}" for column in COLUMNS)},
    import_key integer NOT NULL,
    part integer NOT NULL
) PARTITION BY LIST (import_key)
"""


def prepare(connection: Connection) -> None:
    """Create `trips` and the ledger where they are missing; check that the loader can load into `trips`.

    Raises DATABASE_UNSUPPORTED, DATABASE_UNAVAILABLE (a standby), DATABASE_RIGHTS, DATABASE_CONFIGURATION, TABLE_MISMATCH.
    """
    _check_server(connection)
    ledger_version.require_rights(connection)
    ledger_version.upgrade(connection)
    with connection.transaction():
        ledger_version.create(connection)
        if not _exists(connection, "public.trips"):
            _refuse_taken_name(connection)
            connection.execute(_CREATE_TRIPS.encode())
    target_check.check(connection)


def exists(connection: Connection) -> bool:
    """Whether the database has a ledger, which is upgraded, and `trips`. Raises as `ledger_version.upgrade` does."""
    return ledger_version.upgrade(connection) and _exists(connection, "public.trips")


def refuse_standby(connection: Connection) -> None:
    """Raise DATABASE_UNAVAILABLE if the server is a standby; it is retryable because a standby may be promoted."""
    if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
        raise LoaderError(
            FailureCode.DATABASE_UNAVAILABLE,
            "The server is a standby, which is read-only until it is promoted.",
            "Connect to the primary; a DATABASE_URL with several hosts needs target_session_attrs=read-write.",
        )


def columns(connection: Connection, table: str) -> list[tuple[object, ...]]:
    """Return name, type, collation and generation of each column of a table, in order: a partition must match them."""
    return connection.execute(
        # as a text first: a parameter that can't be converted has a context, as errors of functions have (errors.py)
        "SELECT attname, format_type(atttypid, atttypmod), attcollation, attgenerated FROM pg_attribute"
        " WHERE attrelid = %s::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    ).fetchall()


def _check_server(connection: Connection) -> None:
    if connection.info.server_version < OLDEST_SERVER:
        raise LoaderError(
            FailureCode.DATABASE_UNSUPPORTED,
            f"The server is PostgreSQL {connection.info.server_version // 10000}.",
            "Use PostgreSQL 15 or newer.",
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in _ENCODINGS:
        raise LoaderError(
            FailureCode.DATABASE_UNSUPPORTED,
            f"The database's encoding is {encoding}, which can't store every text of a file.",
            "Use a database with ENCODING UTF8.",
        )
    refuse_standby(connection)


def _exists(connection: Connection, table: str) -> bool:
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone() == (True,)


def _refuse_taken_name(connection: Connection) -> None:
    """Raise if `public.trips` can't be created: DATABASE_CONFIGURATION without the schema, TABLE_MISMATCH for a type."""
    public, named = connection.execute(
        "SELECT to_regnamespace('public') IS NOT NULL, to_regtype('public.trips') IS NOT NULL"
    ).fetchall()[0]
    if not public:
        raise LoaderError(
            FailureCode.DATABASE_CONFIGURATION,
            "The database has no schema public for the table trips.",
            "Run this SQL, then the command again: CREATE SCHEMA public;",
        )
    if named:
        raise LoaderError(
            FailureCode.TABLE_MISMATCH,
            "A type has the name public.trips, which the table trips needs.",
            "Run this SQL, then the command again: ALTER TYPE public.trips RENAME TO trips_type;",
        )
