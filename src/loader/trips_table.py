"""The table `trips` in the target database: made when it is not there, looked at when it is."""

from __future__ import annotations

from loader import ledger_version
from loader.database import Connection
from loader.errors import LoaderError
from loader.trips import COLUMNS, POSTGRES_TYPES
from loader.wire import FailureCode

OLDEST_SERVER = 150000
# Those that keep UTF-8 as it is. https://www.postgresql.org/docs/current/multibyte.html
_ENCODINGS = ("UTF8", "SQL_ASCII")

# ANALYZE reads 300 rows for each unit of the target: enough for a planner, and milliseconds for any part.
STATISTICS_TARGET = 10

_KEY_COLUMNS = {"import_key": "integer", "part": "integer"}
_EXPECTED = {column.name: POSTGRES_TYPES[column.kind] for column in COLUMNS} | _KEY_COLUMNS

_CREATE_TRIPS = f"""
CREATE TABLE public.trips (
    {", ".join(f"{column.name} {POSTGRES_TYPES[column.kind]}" for column in COLUMNS)},
    import_key integer NOT NULL,
    part integer NOT NULL
) PARTITION BY LIST (import_key)
"""


def prepare(connection: Connection) -> None:
    """Make `trips` and the ledger where they are missing; see that `trips` is ours to load into.

    Raises DATABASE_UNSUPPORTED, DATABASE_UNAVAILABLE (a standby), DATABASE_RIGHTS, TABLE_MISMATCH.
    """
    _check_server(connection)
    ledger_version.bring_up_to_date(connection)
    with connection.transaction():
        ledger_version.make(connection)
        if not _exists(connection, "public.trips"):
            connection.execute(_CREATE_TRIPS.encode())
    _check(connection)


def exists(connection: Connection) -> bool:
    """Whether the database has a ledger, which is brought up to date, and `trips`. Raises as `bring_up_to_date` does."""
    return ledger_version.bring_up_to_date(connection) and _exists(connection, "public.trips")


def refuse_standby(connection: Connection) -> None:
    """Raise DATABASE_UNAVAILABLE if the server is a standby: it may be promoted."""
    if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
        raise LoaderError(
            FailureCode.DATABASE_UNAVAILABLE,
            "The server is a standby: it can be read only, until it is promoted.",
            "Connect to the primary; a DATABASE_URL with several hosts needs target_session_attrs=read-write.",
        )


def columns(connection: Connection, table: str) -> list[tuple[object, ...]]:
    """Return name, type and collation of each column of a table, in order: what a partition must have alike."""
    return connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod), attcollation, attgenerated FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
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


def _check(connection: Connection) -> None:
    actual = {row[0]: row[1] for row in columns(connection, "public.trips")}
    wrong = [
        f"{name} is {actual.get(name, 'missing')}, not {expected}"
        for name, expected in _EXPECTED.items()
        if actual.get(name) != expected
    ]
    # From the catalog: pg_get_partkeydef waits for whoever has locked trips.
    partitioned = connection.execute(
        "SELECT partstrat = 'l' AND partnatts = 1 AND partattrs[0] = attnum FROM pg_partitioned_table"
        " JOIN pg_attribute ON attrelid = partrelid AND attname = 'import_key'"
        " WHERE partrelid = 'public.trips'::regclass"
    ).fetchone()
    if partitioned != (True,):
        wrong.append("it is not PARTITION BY LIST (import_key)")
    if wrong:
        raise LoaderError(
            FailureCode.TABLE_MISMATCH,
            f"public.trips is not a table that the loader made: {'; '.join(wrong)}.",
            "Rename that table, or import into another database: the loader makes its own.",
        )
    owned = connection.execute(
        "SELECT pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner) FROM pg_class"
        " WHERE oid = 'public.trips'::regclass"
    ).fetchone()
    if owned is not None and not owned[0]:
        raise LoaderError(
            FailureCode.DATABASE_RIGHTS,
            f"Only the owner of public.trips, {owned[1]}, may attach what is imported.",
            f"Connect as {owned[1]}, or GRANT that role to yours.",
        )
