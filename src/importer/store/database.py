"""The control DB's file: its lock, its check, its migrations, and a connection each for writing and for reading.

In WAL mode a read never waits for a write or an fsync (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from importlib import resources
from pathlib import Path
from typing import Literal, Self, TypeVar

import aiosqlite

from importer.store import rows
from importer.store.errors import StoreLocked, StoreNewer, store_error, translated_errors
from importer.tasks import uninterrupted

R = TypeVar("R")

# The n-th migrates a file from version n-1 to n; the version is SQLite's user_version, 0 in a new file.
MIGRATIONS = tuple(
    resources.files("importer.store").joinpath(f"schema_{version}.sql").read_text() for version in (1, 2, 3)
)

# No other service writes here, but a backup or a shell may hold a lock for a moment.
BUSY_TIMEOUT_SECONDS = 2.0


class ControlDatabase:
    """The open file. To be used in one event loop. No other service can open the file in the meantime.

    Transactions and reads run in tasks of their own: cancelling the caller does not take a statement out of aiosqlite's
    queue, so each runs to its end before the next one starts.
    """

    def __init__(
        self, path: Path, writer: aiosqlite.Connection, reader: aiosqlite.Connection, opened: AsyncExitStack
    ) -> None:
        """`opened` closes both connections and releases the lock."""
        self._path = path
        self._writer = writer
        self._reader = reader
        self._opened = opened
        self._write_lock = asyncio.Lock()
        # Overlapping statements of one connection share the snapshot of the first, and would miss later commits.
        self._read_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file and migrate it to this program's version. Takes as long as reading the file does.

        Raises StoreLocked, StoreCorrupt, StoreNewer, StoreError.
        """
        async with AsyncExitStack() as opened:  # an unclosed connection's thread would keep the process alive
            with translated_errors(path):
                opened.callback(os.close, _lock(path))
                _make_private(path)
                await _check(path)
                writer = await opened.enter_async_context(_connect(path, "rw"))
                await writer.executescript("PRAGMA journal_mode = WAL")
                await _migrate(writer, path)
                # Closed before the writer, which then moves the log into the file and deletes it.
                reader = await opened.enter_async_context(_connect(path, "ro"))
                return cls(path, writer, reader, opened.pop_all())

    async def write(
        self,
        transaction: Callable[[aiosqlite.Connection], Awaitable[R]],
        *,
        durable: bool = True,
        on_commit: Callable[[R], None] | None = None,
    ) -> R:
        """Commit a transaction, even if the caller is cancelled, and return its result.

        `on_commit` gets the result right after the commit. Not durable: the commit survives the end of this process, but a
        power cut may undo it. Raises StoreBusy, StoreFull, StoreError; nothing is changed then.
        """
        return await self._in_own_task(self._write(transaction, durable, on_commit))

    async def read(self, query: Callable[[aiosqlite.Connection], Awaitable[R]]) -> R:
        """Return the result of a query, which sees everything that was committed before this call. Raises StoreError."""
        return await self._in_own_task(self._read(query))

    async def close(self) -> None:
        """Finish what was started, close the connections and release the lock, even if cancelled in the meantime."""
        await uninterrupted(self._close())

    async def _in_own_task(self, work: Coroutine[None, None, R]) -> R:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop keeps only a weak reference
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _write(
        self,
        transaction: Callable[[aiosqlite.Connection], Awaitable[R]],
        durable: bool,
        on_commit: Callable[[R], None] | None,
    ) -> R:
        connection = self._writer
        async with self._write_lock:
            with translated_errors(self._path):
                # FULL syncs the log at each commit, NORMAL at checkpoints: https://www.sqlite.org/pragma.html#pragma_synchronous
                await connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                await connection.execute("BEGIN IMMEDIATE")
                try:
                    result = await transaction(connection)
                    await connection.commit()
                finally:
                    if connection.in_transaction:
                        await connection.rollback()
            if on_commit is not None:
                on_commit(result)
            return result

    async def _read(self, query: Callable[[aiosqlite.Connection], Awaitable[R]]) -> R:
        async with self._read_lock:
            with translated_errors(self._path):
                return await query(self._reader)

    async def _close(self) -> None:
        async with self._write_lock, self._read_lock:
            await self._opened.aclose()


def _lock(path: Path) -> int:
    """Lock the file for this service and return the lock's descriptor. Closing it, or the end of the process, unlocks."""
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
    """Create the file if need be, for its owner only; SQLite gives the -wal and -shm files the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        # Releases any POSIX lock of this process on the file, so not after SQLite has taken one.
        os.close(descriptor)


def _connect(path: Path, mode: Literal["ro", "rw"]) -> aiosqlite.Connection:
    return aiosqlite.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,  # Python's module starts no transactions
    )


async def _check(path: Path) -> None:
    """Raise StoreCorrupt or StoreNewer, before anything is written to the file."""
    async with _connect(path, "ro") as connection:
        [(found,)] = await rows.select(connection, "PRAGMA quick_check(1)")
        if found != "ok":
            raise store_error(path, sqlite3.SQLITE_CORRUPT, found)
        [(version,)] = await rows.select(connection, "PRAGMA user_version")
        if version > len(MIGRATIONS):
            raise StoreNewer(
                f"The control DB {path} is of version {version}, newer than {len(MIGRATIONS)}, this program's.",
                "Use the newer version of this program that wrote it, or another data folder.",
            )


async def _migrate(writer: aiosqlite.Connection, path: Path) -> None:
    """Migrate the file to this program's version in one transaction, then enable foreign keys.

    Not before: a migration that rebuilds a table drops it, which deletes the rows that refer to it. Inside a transaction the
    setting can't be changed. Raises StoreCorrupt if a row refers to a missing one; nothing is changed then.
    """
    await writer.execute("PRAGMA foreign_keys = OFF")
    [(version,)] = await rows.select(writer, "PRAGMA user_version")
    if version < len(MIGRATIONS):
        script = ";".join(MIGRATIONS[version:])
        await writer.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {len(MIGRATIONS)};")
        for table, row, parent, _ in await rows.select(writer, "PRAGMA foreign_key_check"):
            raise store_error(
                path, sqlite3.SQLITE_CORRUPT, f"row {row} of {table} refers to a missing row of {parent}"
            )
        await writer.commit()
    await writer.execute("PRAGMA foreign_keys = ON")
