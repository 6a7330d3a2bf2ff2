"""The PostgreSQL that all contenders load into: the embedded one in a scratch folder, with a fresh database for each run."""

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
# The embedded server's setting, and PostgreSQL's default: https://www.postgresql.org/docs/18/runtime-config-wal.html
WAL_LEVELS = ("minimal", "replica")


class Server:
    """A running server, and counters of what it used."""

    def __init__(self, url: str, process_id: int, connection: psycopg.Connection) -> None:
        self._postmaster = psutil.Process(process_id)
        self._connection = connection
        self.database_url = urlsplit(url)._replace(path=f"/{DATABASE}").geturl()

    @contextlib.contextmanager
    def fresh_database(self, prepare: str) -> Generator[None]:
        """Create an empty database at `database_url`, execute `prepare` in it, and flush all writes."""
        self._connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode())
        self._connection.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0 STRATEGY file_copy".encode())
        self.execute(prepare)
        self._connection.execute("CHECKPOINT")
        os.sync()  # else writes of others would be measured, too
        yield
        self._connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())

    def execute(self, statement: str) -> None:
        """Execute a statement in the fresh database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def row_count(self) -> int:
        """Return the number of rows in trips."""
        with psycopg.connect(self.database_url) as connection:
            return _number(connection, "SELECT count(*) FROM trips")

    def committed_bytes(self) -> int:
        """Return how many bytes of files are loaded, by the ledger."""
        with psycopg.connect(self.database_url) as connection:
            return _number(
                connection, "SELECT coalesce(sum(byte_end - byte_start), 0)::bigint FROM loader.block"
            )

    def await_clients(self) -> None:
        """Wait until the fresh database has no connections."""
        while _number(
            self._connection,
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{DATABASE}' AND backend_type = 'client backend'",
        ):
            time.sleep(0.01)  # only polling shows that a session has ended

    def cpu_seconds(self) -> float:
        """Return the CPU time of the whole server so far, including backends that have exited.

        The postmaster reaps each backend, whose time is then part of its children's time.
        """
        self.await_clients()
        children: list[psutil.Process] | None = None
        seconds = 0.0
        while children != (
            found := self._postmaster.children()
        ):  # one that exits meanwhile would count twice
            children = found
            seconds = 0.0
            for process in [*children, self._postmaster]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    seconds += times.user + times.system + times.children_user + times.children_system
        return seconds

    def wal_bytes(self) -> int:
        """Return the bytes of write-ahead log written so far."""
        return _number(self._connection, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")

    def database_bytes(self) -> int:
        """Return the size of the fresh database's files."""
        return _number(self._connection, f"SELECT pg_database_size('{DATABASE}')")

    def copy_count(self) -> int:
        """Return how many COPY commands are running."""
        return _number(self._connection, "SELECT count(*) FROM pg_stat_progress_copy")

    @property
    def version(self) -> str:
        """The version, as 18.6."""
        return self._connection.info.parameter_status("server_version") or "unknown"


class LastCopy:
    """Detects when the last COPY ends. Create it while one is running."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._was_copying = True
        self.ended_at: float | None = None  # by perf_counter; None while one is running

    def poll(self) -> None:
        """Check whether it has ended; call this repeatedly."""
        is_copying = self._server.copy_count() > 0
        if is_copying:
            self.ended_at = None
        elif self._was_copying:
            self.ended_at = time.perf_counter()
        self._was_copying = is_copying


@contextlib.contextmanager
def scratch_server(folder: Path, wal_level: str) -> Generator[Server]:
    """Run a server with its data below a folder, until the context ends."""
    # there is no parameter for this: users can't change these settings
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
