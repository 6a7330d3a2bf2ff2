"""The errors of the control DB, and what an error of SQLite or of the file system means.

The API answers with their messages; `importer serve` exits with them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path
from uuid import UUID

import msgspec


class StoreError(Exception):
    """The control DB can't be used: what happened, where, what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StoreLocked(StoreError):
    """Another service uses it. Raised by `open` only."""


class StoreNewer(StoreError):
    """A newer version of this program has written it. Raised by `open` only."""


class StoreCorrupt(StoreError):
    """It is damaged, or no SQLite file. It is left unchanged."""


class StoreBusy(StoreError):
    """Another program holds a lock on it. Nothing was changed; the same call may soon succeed."""


class StoreFull(StoreError):
    """The disk or a quota is full. Nothing was changed; reads still work."""


class IdempotencyConflict(Exception):
    """An earlier request used the idempotency key with another job."""

    def __init__(self, import_id: UUID) -> None:
        super().__init__(f"The idempotency key belongs to import {import_id}, which has another body.")
        self.import_id = import_id


# By extended or primary result code (https://www.sqlite.org/rescode.html). SQLite reports a used-up quota and a limit on the
# size of files as errors of write().
_MEANINGS: dict[int, tuple[type[StoreError], str, str]] = {
    sqlite3.SQLITE_BUSY: (
        StoreBusy,
        "is locked by another program",
        "Nothing was changed. Try again; end the program that has the file open.",
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE),
        (
            StoreFull,
            "can't be written: the disk or a quota is full",
            "Nothing was changed. Make room on its disk and try again.",
        ),
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
        (
            StoreCorrupt,
            "is damaged, or not a SQLite database",
            "The file was not changed. Restore it from a backup, or move it away to start with an empty one;"
            " the ledger in Postgres still has what is loaded.",
        ),
    ),
}


def store_error(path: Path, code: int | None, detail: str) -> StoreError:
    """Return the error for a result code of SQLite; None: the error is not SQLite's."""
    for known in (code, code & 0xFF) if code is not None else ():  # the low byte is the primary code
        if known in _MEANINGS:
            kind, what, hint = _MEANINGS[known]
            return kind(f"The control DB {path} {what} ({detail}).", hint)
    return StoreError(
        f"The control DB {path} can't be used ({detail}).",
        "Check the permissions and the disk of its folder.",
    )


@contextlib.contextmanager
def translated_errors(path: Path) -> Generator[None]:
    """Raise errors of SQLite and of the file system as StoreError, except those that are defects of this program."""
    try:
        yield
    except OSError as error:
        raise store_error(path, None, str(error)) from error
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except msgspec.DecodeError as error:  # of rows.py
        raise store_error(path, sqlite3.SQLITE_CORRUPT, f"a row can't be decoded: {error}") from error
    except sqlite3.DatabaseError as error:
        # Python raises it, without a code, for text that is not UTF-8. Its message quotes the text, secrets included.
        if not hasattr(error, "sqlite_errorcode"):
            raise store_error(path, sqlite3.SQLITE_CORRUPT, "a text is not in UTF-8") from None
        raise store_error(path, error.sqlite_errorcode, str(error)) from error
