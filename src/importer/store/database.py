"""The control DB's file: who may open it, whether it is whole and of our version, and its connections.

One connection writes and one reads, each in a thread of its own, so that a GET never waits for an fsync or for a lock:
in WAL mode readers are not blocked (https://www.sqlite.org/wal.html). A transaction is one function that runs in the
writer's thread from BEGIN to COMMIT; cancelling who awaits it can't leave it half done. A third connection reads single
rows in the event loop itself: that takes 30 µs, where a thread has to be woken twice, for milliseconds on a busy machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec

from importer.store.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreNewer

R = TypeVar("R")

# The n-th brings a file from version n-1 to n; the version is SQLite's user_version, 0 in a new file.
MIGRATIONS = tuple(
    resources.files("importer.store").joinpath(f"schema_{version}.sql").read_text() for version in (1, 2)
)

# No other program writes here, but a backup or somebody's shell may hold a lock for a moment.
BUSY_TIMEOUT_SECONDS = 2.0

# By extended or primary result code (https://www.sqlite.org/rescode.html). A used up quota and a file size limit are
# told as errors of write().
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
            "It is kept as it is. Restore it from a backup, or move it away to begin with an empty one;"
            " what is loaded, the ledger in Postgres knows.",
        ),
    ),
}


class ControlDatabase:
    """The open file. No other service can open it meanwhile."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it, and bring it to our version; raises StoreError. Takes as long as reading the file does."""
        self._path = path
        with contextlib.ExitStack() as opened, self._explained():
            opened.callback(os.close, _lock(path))
            _make_private(path)
            self._check()
            self._writer = self._connect("rw")
            opened.callback(self._writer.close)
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._migrate()
            self._reader = self._connect("ro")
            # The writer is closed last, and so writes all into the one file and removes the others.
            opened.callback(self._reader.close)
            self._looker = self._connect("ro", timeout_seconds=0)
            opened.callback(self._looker.close)
            self._opened = opened.pop_all()
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="control-db-writer")
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="control-db-reader")

    def write(
        self, transaction: Callable[[sqlite3.Connection], R], *, durable: bool = True
    ) -> asyncio.Future[R]:
        """Begin a transaction that goes on whatever becomes of the caller; raises StoreBusy, StoreFull, StoreError.

        Not durable: at once visible and safe from the end of this process, but not yet from that of the machine.
        """
        return asyncio.get_running_loop().run_in_executor(
            self._writer_thread, self._transact, transaction, durable
        )

    async def read(self, query: Callable[[sqlite3.Connection], R]) -> R:
        """Return what a query finds, everything committed before this call included; raises StoreError."""
        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, self._query, query)

    def look(self, query: Callable[[sqlite3.Connection], R]) -> R:
        """Return, without waiting, what a query for a row by its key finds; raises StoreError."""
        with self._explained():
            return query(self._looker)

    def close(self) -> None:
        """Finish what was begun, and let go of the file."""
        self._writer_thread.shutdown()
        self._reader_thread.shutdown()
        self._opened.close()

    def _transact(self, transaction: Callable[[sqlite3.Connection], R], durable: bool) -> R:
        connection = self._writer
        with self._explained():
            # FULL syncs the log at each commit, NORMAL at checkpoints: https://www.sqlite.org/pragma.html#pragma_synchronous
            connection.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = transaction(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return result

    def _query(self, query: Callable[[sqlite3.Connection], R]) -> R:
        with self._explained():
            return query(self._reader)

    def _connect(self, mode: str, timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=timeout_seconds,
            isolation_level=None,  # every BEGIN is ours
            check_same_thread=False,  # opened and closed in other threads than the one that uses it
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _check(self) -> None:
        """Raise StoreCorrupt or StoreNewer, before anything is written to the file."""
        with contextlib.closing(self._connect("ro")) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise self._error(sqlite3.SQLITE_CORRUPT, found)
            if (version := _version(connection)) > len(MIGRATIONS):
                raise StoreNewer(
                    f"The control DB {self._path} is of version {version}, newer than {len(MIGRATIONS)}, this program's.",
                    "Use the newer version of this program that wrote it, or another data folder.",
                )

    def _migrate(self) -> None:
        """Bring the file to our version in one transaction, then have foreign keys enforced.

        Not before: a migration that rebuilds a table drops it, which deletes the rows that refer to it. Inside a transaction
        the setting can't be changed. Raises StoreCorrupt where a row refers to none; nothing is changed then.
        """
        self._writer.execute("PRAGMA foreign_keys = OFF")
        if (version := _version(self._writer)) < len(MIGRATIONS):
            script = ";".join(MIGRATIONS[version:])
            self._writer.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {len(MIGRATIONS)};")
            orphan = self._writer.execute("PRAGMA foreign_key_check").fetchone()
            if orphan is not None:
                table, row, parent, _ = orphan
                raise self._error(
                    sqlite3.SQLITE_CORRUPT,
                    f"row {row} of {table} refers to a row of {parent} that is not there",
                )
            self._writer.execute("COMMIT")
        self._writer.execute("PRAGMA foreign_keys = ON")

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(None, str(error)) from error
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # ours to correct, nobody else's
        except msgspec.DecodeError as error:  # of rows.py
            raise self._error(sqlite3.SQLITE_CORRUPT, f"a row is none that was written: {error}") from error
        except sqlite3.DatabaseError as error:
            # Said by Python's module, and not by SQLite: with the text, and so with its secrets.
            if not hasattr(error, "sqlite_errorcode"):
                raise self._error(sqlite3.SQLITE_CORRUPT, "a text is not in UTF-8") from None
            raise self._error(error.sqlite_errorcode, str(error)) from error

    def _error(self, code: int | None, detail: str) -> StoreError:
        for known in (code, code & 0xFF) if code is not None else ():  # the low byte is the primary code
            if known in _MEANINGS:
                kind, what, hint = _MEANINGS[known]
                return kind(f"The control DB {self._path} {what} ({detail}).", hint)
        return StoreError(
            f"The control DB {self._path} can't be used ({detail}).",
            "Look at the rights and the disk of its folder.",
        )


def _lock(path: Path) -> int:
    """Become the one service of this file until the descriptor is closed: by us or, if we are killed, by the kernel."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreLocked(
            f"Another service uses the control DB {path}.",
            "Stop it, or choose another data folder for this one.",
        ) from None
    return descriptor


def _make_private(path: Path) -> None:
    """Make the file if it isn't there, for its owner only; SQLite gives its companions -wal and -shm the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(
            descriptor
        )  # and with it any POSIX lock of this process on the file: before SQLite takes one


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return version
