"""The PostgreSQL that all contenders load into: the embedded one, in a scratch folder, a fresh database for each run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg

from loader.embedded.cluster import SETTINGS, read_pid_file
from loader.embedded.server import embedded_server

DATABASE = "bench"
# The embedded server's own, and that of nearly all others: https://www.postgresql.org/docs/18/runtime-config-wal.html
WAL_LEVELS = ("minimal", "replica")


class Server:
    """A server, and what it has spent."""

    def __init__(self, url: str, process_id: int, connection: psycopg.Connection) -> None:
        self._postmaster = psutil.Process(process_id)
        self._connection = connection
        self.database_url = urlsplit(url)._replace(path=f"/{DATABASE}").geturl()

    @contextlib.contextmanager
    def fresh_database(self, prepare: str) -> Generator[None]:
        """Have an empty database at `database_url`, `prepare` executed in it and nothing left to write to disk."""
        self._connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode())
        self._connection.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0 STRATEGY file_copy".encode())
        self.execute(prepare)
        self._connection.execute("CHECKPOINT")
        os.sync()  # what others left for later would be written meanwhile
        yield
        self._connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())

    def execute(self, statement: str) -> None:
        """Execute a statement in the fresh database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def row_count(self) -> int:
        """Return how many rows a reader of trips sees."""
        with psycopg.connect(self.database_url) as connection:
            return _number(connection, "SELECT count(*) FROM trips")

    def committed_bytes(self) -> int:
        """Return how many bytes of files the ledger says are loaded."""
        with psycopg.connect(self.database_url) as connection:
            return _number(
                connection, "SELECT coalesce(sum(byte_end - byte_start), 0)::bigint FROM loader.block"
            )

    def await_clients(self) -> None:
        """Wait until nobody is connected to the fresh database."""
        while _number(
            self._connection,
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{DATABASE}' AND backend_type = 'client backend'",
        ):
            time.sleep(0.01)  # between two looks

    def cpu_seconds(self) -> float:
        """Return the CPU time of the whole server so far, that of ended backends included.

        The postmaster waits for each backend that ends: from then on the backend's time is in its children's time.
        """
        self.await_clients()
        children: list[psutil.Process] | None = None
        seconds = 0.0
        while children != (found := self._postmaster.children()):  # one that ends meanwhile would count twice
            children = found
            seconds = 0.0
            for process in [*children, self._postmaster]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    seconds += times.user + times.system + times.children_user + times.children_system
        return seconds

    def wal_bytes(self) -> int:
        """Return how much write-ahead log there was ever."""
        return _number(self._connection, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")

    def database_bytes(self) -> int:
        """Return the size of the fresh database's files."""
        return _number(self._connection, f"SELECT pg_database_size('{DATABASE}')")

    def copy_count(self) -> int:
        """Return how many COPY commands are running."""
        return _number(self._connection, "SELECT count(*) FROM pg_stat_progress_copy")

    @property
    def version(self) -> str:
        """As people write it: 18.6."""
        return self._connection.info.parameter_status("server_version") or "unknown"


class LastCopy:
    """Sees when the last COPY ends; made while one is running."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._was_copying = True
        self.ended_at: float | None = None  # by perf_counter; None: one is running

    def look(self) -> None:
        """See whether it has ended; to be called every now and then."""
        is_copying = self._server.copy_count() > 0
        if is_copying:
            self.ended_at = None
        elif self._was_copying:
            self.ended_at = time.perf_counter()
        self._was_copying = is_copying


@contextlib.contextmanager
def scratch_server(folder: Path, wal_level: str) -> Generator[Server]:
    """Start the server that has its data below a folder, stop it in the end."""
    # no user is offered other settings, so there is no parameter for them
    SETTINGS["wal_level"] = wal_level
    data_folder = folder / f"data-{wal_level}"
    with embedded_server(data_folder) as url, psycopg.connect(url, autocommit=True) as connection:
        process_id, _ = read_pid_file(data_folder)
        if process_id is None:
            raise RuntimeError(f"The server of {data_folder} has ended.")
        yield Server(url, process_id, connection)


def _number(connection: psycopg.Connection, statement: str) -> int:
    row = connection.execute(statement.encode()).fetchone()
    return int(row[0]) if row else 0
