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

# Classes that a row causes: its data (22), a constraint (23) or the size of an index entry (54), and the errors of a user's
# function that a constraint, a default, a generated column or an index calls (21, 2F, 38, 39, 44, P0).
_ROW_CLASSES = frozenset({"21", "22", "23", "2F", "38", "39", "44", "54", "P0"})
# A violated constraint of these tables is a defect of the loader, not a row's fault.
_LEDGER_TABLES = ("ledger", "import", "part", "block", "reject")
# Classes with which a server refuses a role, a password, a database or an option of the connection.
_REFUSAL_CLASSES = frozenset({"22", "28", "3D", "42"})
# Errors inside the server: 58 is its operating system, XX the server itself.
_SERVER_CLASSES = frozenset({"58", "XX"})

# Errors that last until an operator changes the database: classes, message, hint.
_CONFIGURATION_ERRORS: tuple[tuple[tuple[type[psycopg.Error], ...], str, str], ...] = (
    (
        (pg.OutOfMemory, pg.ConfigurationLimitExceeded),
        "A limit of the database server is too low for the import",
        "Raise the limit that the message names (max_locks_per_transaction, temp_file_limit, memory), then run the"
        " same command again.",
    ),
    (
        (pg.InvalidSchemaName,),
        "A schema is missing",
        "Create the schema, then run the same command again.",
    ),
    (
        (pg.RaiseException,),  # outside COPY: usually an event trigger
        "A trigger or a function of the database refused a statement of the loader",
        "Change that trigger (an event trigger may forbid CREATE TABLE), then run the same command again.",
    ),
    (
        (pg.ObjectNotInPrerequisiteState,),
        "The state of a table forbids a statement of the loader",
        "If a publication is the cause, give each table of schema loader a key or REPLICA IDENTITY FULL; then run the same"
        " command again.",
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
    """Return the server's message without its DETAIL, which may quote rows; without one, psycopg's message."""
    return (error.diag.message_primary or str(error) or type(error).__name__).strip().rstrip(".")


def with_server_hint(hint: str, error: psycopg.Error) -> str:
    """Return our hint, followed by the server's HINT if it sent one."""
    server_hint = error.diag.message_hint
    return f"{hint} The server's hint: {server_hint}" if server_hint else hint


def row_error(code: FailureCode, what: str, hint: str, error: psycopg.Error) -> LoaderError:
    """Return the error for a row fault, with DETAIL as its `value`: it quotes the row or its key."""
    return LoaderError(
        code,
        f"{what}: {server_message(error)}.",
        with_server_hint(hint, error),
        value=error.diag.message_detail,
    )


def refused(error: psycopg.Error) -> LoaderError:
    """Return the error for a refused first connection: a refusal lasts until an operator changes a setting."""
    if (error.sqlstate or "")[:2] not in _REFUSAL_CLASSES or isinstance(error, pg.InsufficientPrivilege):
        return translate(error)
    return _with(
        error,
        FailureCode.DATABASE_CONFIGURATION,
        "The database refuses the connection",
        "Correct the role, password, database name and TLS options in DATABASE_URL, or pg_hba.conf on the server.",
    )


def translate(error: psycopg.Error) -> LoaderError:
    """Return the LoaderError for an error of psycopg, with the server's DETAIL and HINT."""
    for classes, what, hint in _CONFIGURATION_ERRORS:
        if isinstance(error, classes):
            return _with(error, FailureCode.DATABASE_CONFIGURATION, what, hint)
    match error:
        case pg.DiskFull():
            return _with(
                error,
                FailureCode.OUT_OF_SPACE,
                "The database server's disk is full",
                "Free space on the database server (an import needs about 1.25 times the CSV), then run the same command"
                " again.",
            )
        case pg.InsufficientPrivilege():
            return _with(
                error,
                FailureCode.DATABASE_RIGHTS,
                "The database role lacks a right",
                "Grant it, or use the role that owns trips. docs/configuration.md lists the rights that the loader needs.",
            )
        case pg.ReadOnlySqlTransaction() | pg.FeatureNotSupported():
            return _with(
                error,
                FailureCode.DATABASE_UNSUPPORTED,
                "This database can't be loaded into",
                "Use a primary server with PostgreSQL 15 or newer.",
            )
        case psycopg.OperationalError() | psycopg.InterfaceError():
            # Connection lost or refused, shutdown, recovery, too many connections, deadlock, cancelled statement: each
            # may be over at the next attempt.
            return _with(
                error,
                FailureCode.DATABASE_UNAVAILABLE,
                "The database operation failed",
                "Check that the server runs and accepts connections, then run the same command again: it resumes the"
                " import.",
            )
        case _ if is_row_fault(error):
            return row_error(
                FailureCode.TABLE_MISMATCH,
                "A row of this import breaks a constraint or an index of trips",
                "Drop the constraint, or add the rows that a foreign key needs, then run the same command again: it resumes"
                " the import.",
                error,
            )
        case _ if (error.sqlstate or "")[:2] in _SERVER_CLASSES:
            return _with(
                error,
                FailureCode.INTERNAL_ERROR,
                f"The database server has an internal error ({error.sqlstate})",
                "Read the server's log, then run the same command again.",
            )
        case _:
            return _with(
                error,
                FailureCode.INTERNAL_ERROR,
                f"The database refused a statement of the loader ({error.sqlstate})",
                "This is a defect of the loader: report it with this message.",
            )


def _with(error: psycopg.Error, code: FailureCode, what: str, hint: str) -> LoaderError:
    detail = error.diag.message_detail
    message = f"{what}: {server_message(error)}"
    return LoaderError(code, f"{message}. {detail}" if detail else message, with_server_hint(hint, error))
