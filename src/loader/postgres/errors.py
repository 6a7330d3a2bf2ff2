"""Maps database errors to failure codes: each SQLSTATE class by its cause (row, table, configuration, outage, defect).

The classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import psycopg
from psycopg import errors as pg

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres.connect_refusal import ClientRefusal

# Classes that a row causes: its data (22), a constraint (23) or the size of an index entry (54), and the errors of a user's
# function that a constraint, a default, a generated column or an index calls (21, 2F, 38, 39, 44, P0).
_ROW_CLASSES = frozenset({"21", "22", "23", "2F", "38", "39", "44", "54", "P0"})
# A violated constraint of these tables is a defect of the loader, not a row's fault.
_LEDGER_TABLES = ("ledger", "import", "part", "block", "reject")
# Classes of refused connections that may be over soon: lost, rolled back, out of resources, starting or stopping, of the
# operating system, internal.
_PASSING_CLASSES = frozenset({"08", "40", "53", "57", "58", "XX"})
# What a refused first connection needs, by SQLSTATE, by its class, or by what libpq refuses.
_CORRECTIONS: dict[str | ClientRefusal, str] = {
    "28P01": "Correct DATABASE_URL: the role or its password is wrong.",
    "28": "Correct DATABASE_URL: the server does not admit this role to this database, or not without TLS (sslmode); or"
    " have pg_hba.conf on the server admit it.",
    "3D": "Correct DATABASE_URL: name a database that exists, or create this one.",
    "55": "Correct DATABASE_URL: this database takes no connections; or have it take them: ALTER DATABASE … WITH"
    " ALLOW_CONNECTIONS true.",
    "22": "Correct DATABASE_URL: the server does not take one of its options.",
    "42": "Correct DATABASE_URL: the server does not take one of its options.",
    ClientRefusal.HOST: "Correct DATABASE_URL: no name server knows its host. If it is right, check the name servers.",
    ClientRefusal.OPTION: "Correct DATABASE_URL, or its service file: one of its parameters can't be used.",
    ClientRefusal.PASSWORD: "Correct DATABASE_URL: the server asks for a password, and none is given, in a PGPASSFILE"
    " either.",
    ClientRefusal.TLS: "Correct DATABASE_URL: sslmode, sslrootcert or the host do not fit the server's TLS.",
    ClientRefusal.SESSION: "Correct DATABASE_URL: target_session_attrs and host select no server that can be loaded into.",
}
# A login trigger, and what later versions have.
_OTHER_CORRECTION = (
    "Correct DATABASE_URL, or what refuses the connection on the server, such as a login trigger."
)
# PL/pgSQL's RAISE and ASSERT in the server's source, which no setting translates: the trigger or function that has them may
# give any SQLSTATE. https://www.postgresql.org/docs/current/plpgsql-errors-and-messages.html
_RAISED_IN = frozenset({"exec_stmt_raise", "exec_stmt_assert"})
# Errors inside the server: 58 is its operating system, XX the server itself.
_SERVER_CLASSES = frozenset({"58", "XX"})

# Errors that last until an operator changes the database: classes, code, message, hint. The server or a function of the
# database may have raised them.
_LASTING_ERRORS: tuple[tuple[tuple[type[psycopg.Error], ...], FailureCode, str, str], ...] = (
    (
        (pg.OutOfMemory, pg.ConfigurationLimitExceeded),
        FailureCode.DATABASE_CONFIGURATION,
        "A limit of the database server is too low for the import",
        "Raise the limit that the message names (max_locks_per_transaction, temp_file_limit, memory), then run the"
        " same command again.",
    ),
    (
        (pg.InvalidSchemaName,),
        FailureCode.DATABASE_CONFIGURATION,
        "A schema is missing",
        "Create the schema, then run the same command again.",
    ),
    (
        (pg.ObjectNotInPrerequisiteState,),
        FailureCode.DATABASE_CONFIGURATION,
        "The state of a table forbids a statement of the loader",
        "If a publication is the cause, give each table of schema loader a key or REPLICA IDENTITY FULL; then run the same"
        " command again.",
    ),
    (
        (pg.DiskFull,),
        FailureCode.OUT_OF_SPACE,
        "The database server's disk is full",
        "Free space on the database server (an import needs about 1.25 times the CSV), then run the same command again.",
    ),
    (
        (pg.InsufficientPrivilege,),
        FailureCode.DATABASE_RIGHTS,
        "The database role lacks a right",
        "Grant it, or use the role that owns trips. docs/configuration.md lists the rights that the loader needs.",
    ),
)


@contextlib.contextmanager
def translated() -> Generator[None]:
    """Convert psycopg errors raised in the block to LoaderError."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def is_row_fault(error: psycopg.Error) -> bool:
    """Whether a row caused an error, or a constraint, index or function that was added to `trips`."""
    return (error.sqlstate or "")[:2] in _ROW_CLASSES and error.diag.table_name not in _LEDGER_TABLES


def server_message(error: psycopg.Error) -> str:
    """Return the server's message without its DETAIL, which may quote rows; without one, psycopg's, which has tabs."""
    return (
        (error.diag.message_primary or str(error) or type(error).__name__).expandtabs(2).strip().rstrip(".")
    )


def with_server_hint(hint: str, error: psycopg.Error) -> str:
    """Return our hint, followed by the server's HINT if it sent one."""
    server_hint = error.diag.message_hint
    return f"{hint} The server's hint: {server_hint}" if server_hint else hint


def with_hint_of_cause(hint: str, error: LoaderError) -> str:
    """Return our hint, followed by the server's HINT if an error of the database that has one is the cause."""
    cause = error.__cause__
    return with_server_hint(hint, cause) if isinstance(cause, psycopg.Error) else hint


def row_error(code: FailureCode, what: str, hint: str, error: psycopg.Error) -> LoaderError:
    """Return the error for a row fault, with DETAIL as its `value`: it quotes the row or its key."""
    return LoaderError(
        code,
        f"{what}: {server_message(error)}.",
        with_server_hint(hint, error),
        value=error.diag.message_detail,
    )


def refused(error: psycopg.Error, found: str | ClientRefusal) -> LoaderError:
    """Return the error for a refused first connection: a refusal lasts until an operator changes a setting.

    `found` is what connect_refusal.py has found; `error` has the message, in which libpq quotes the server's HINT, too.
    """
    if isinstance(found, str) and (
        found[:2] in _PASSING_CLASSES or found == pg.InsufficientPrivilege.sqlstate
    ):
        return translate(_with_sqlstate(error, found))
    correction = _CORRECTIONS.get(found)
    if correction is None and isinstance(found, str):
        correction = _CORRECTIONS.get(found[:2], _OTHER_CORRECTION)
    return LoaderError(
        FailureCode.DATABASE_CONFIGURATION,
        f"The connection to the database is refused: {server_message(error)}.",
        f"{correction} Then run the same command again.",
    )


def _with_sqlstate(error: psycopg.Error, sqlstate: str) -> psycopg.Error:
    try:
        return pg.lookup(sqlstate)(server_message(error))
    except KeyError:  # a newer server's
        return error


def is_of_user_code(error: psycopg.Error) -> bool:
    """Whether a trigger or a function of the database caused the error of a statement other than COPY.

    Such an error has a context. So have the violation of a foreign key, which also has the constraint's name, and errors
    that pass, such as a deadlock.
    """
    is_other = isinstance(error, psycopg.OperationalError) or error.diag.constraint_name is not None
    return _is_raised(error) or (error.diag.context is not None and not is_other)


def _is_raised(error: psycopg.Error) -> bool:
    """Whether a function raised the error on purpose, with any SQLSTATE."""
    return error.diag.source_function in _RAISED_IN or isinstance(error, pg.RaiseException)


@contextlib.contextmanager
def user_code_translated() -> Generator[None]:
    """Convert those psycopg errors raised in the block that a trigger or a function of the database caused."""
    try:
        yield
    except psycopg.Error as error:
        if is_of_user_code(error):
            raise translate(error) from error
        raise


def translate(error: psycopg.Error) -> LoaderError:
    """Return the LoaderError for an error of psycopg, with the server's DETAIL and HINT."""
    if _is_raised(error):
        return _refused_by_user_code(error)
    for classes, code, what, hint in _LASTING_ERRORS:
        if isinstance(error, classes):
            return _with(error, code, what, hint)
    match error:
        case psycopg.OperationalError() | psycopg.InterfaceError():
            # Connection lost or refused, shutdown, recovery, too many connections, deadlock, cancelled statement: each
            # may be over at the next attempt.
            return _with(
                error,
                FailureCode.DATABASE_UNAVAILABLE,
                "The database operation failed",
                "Check that the server runs and accepts connections, and that DATABASE_URL is right; then run the same"
                " command again: it resumes the import.",
            )
        case _ if (error.sqlstate or "")[:2] in _SERVER_CLASSES:
            return _with(
                error,
                FailureCode.INTERNAL_ERROR,
                f"The database server has an internal error ({error.sqlstate})",
                "Read the server's log, then run the same command again.",
            )
        case _ if is_of_user_code(error):
            return _refused_by_user_code(error)
        case pg.ReadOnlySqlTransaction() | pg.FeatureNotSupported():
            return _with(
                error,
                FailureCode.DATABASE_UNSUPPORTED,
                "This database can't be loaded into",
                "Use a primary server with PostgreSQL 15 or newer.",
            )
        case _ if is_row_fault(error):
            return row_error(
                FailureCode.TABLE_MISMATCH,
                "A row of this import breaks a constraint or an index of trips",
                "Drop the constraint, or add the rows that a foreign key needs, then run the same command again: it resumes"
                " the import.",
                error,
            )
        case _:
            return _with(
                error,
                FailureCode.INTERNAL_ERROR,
                f"The database refused a statement of the loader ({error.sqlstate})",
                "This is a defect of the loader: report it with this message.",
            )


def _refused_by_user_code(error: psycopg.Error) -> LoaderError:
    """Return the error for a refusal by a trigger or a function; the first line of its context names it."""
    where = (error.diag.context or "").partition("\n")[0] if _is_raised(error) else ""
    return _with(
        error,
        FailureCode.DATABASE_CONFIGURATION,
        f"A trigger or a function of the database refused a statement of the loader{f' ({where})' if where else ''}",
        "Change that trigger or function (an event trigger may forbid CREATE TABLE), then run the same command again.",
    )


def _with(error: psycopg.Error, code: FailureCode, what: str, hint: str) -> LoaderError:
    detail = error.diag.message_detail
    message = f"{what}: {server_message(error)}"
    return LoaderError(code, f"{message}. {detail}" if detail else message, with_server_hint(hint, error))
