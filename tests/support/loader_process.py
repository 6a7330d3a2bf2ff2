"""A loader as a real child process, and what must be true of the database after it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import psycopg

from loader import contract
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS, POSTGRES_TYPES
from tests.support.paths import PROGRAMS

R = TypeVar("R")

# Far longer than any step takes on a loaded machine.
DEADLINE_SECONDS = 120.0


def wait_for(what: str, probe: Callable[[], R | None]) -> R:
    """Return the first true result of `probe`; fail when there is none within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if result := probe():
            return result
        time.sleep(0.02)  # between two probes
    raise AssertionError(f"waited {DEADLINE_SECONDS:.0f} s for {what}")


def with_limits(**limits: float) -> dict[str, str]:
    """Return the environment that gives a small loader these limits."""
    return {"SMALL_LOADER_LIMITS": json.dumps(limits)}


def with_lock_limit(seconds: float) -> dict[str, str]:
    """Return the environment in which a small loader waits so long for any lock of others."""
    return with_limits(trips_lock_seconds=seconds, staging_lock_seconds=seconds, rollback_seconds=seconds)


_database_numbers = itertools.count(1)


@contextlib.contextmanager
def fresh_database(postgres: str) -> Generator[str]:
    """Yield the URL of an empty database; drop it in the end, also with open connections."""
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy".encode())
    yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


# Every loader that a test has started; conftest.py checks that none outlives its test.
STARTED: list[subprocess.Popen[bytes]] = []


class LoaderProcess:
    """One `loader` command that runs, with its messages on the way to a file."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        database_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        small: bool = False,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
        redirected: str = "",
    ) -> None:
        """`small`: with segments and parts so small that a test's file has many of them. `stdout` None: a file.

        A run writes its messages as JSON unless it has the option --progress.

        `redirected`: its streams once more, as a shell has it.
        """
        if arguments[0] == "run" and "--progress" not in arguments:
            arguments = ("run", "--progress", "json", *arguments[1:])
        environment = {**os.environ, **(environment or {})}
        environment.pop("DATABASE_URL", None)
        if database_url is not None:
            environment["DATABASE_URL"] = database_url
        program = [str(PROGRAMS / "small_loader.py")] if small else ["-m", "loader"]
        shell = ["sh", "-c", f'exec "$@" {redirected}', "sh"] if redirected else []
        self._out = folder / f"loader-{time.monotonic_ns()}.out"
        self._err = self._out.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*shell, sys.executable, *program, *arguments],
                stdin=stdin,
                stdout=out if stdout is None else stdout,
                stderr=err,
                env=environment,
            )
        STARTED.append(self.process)

    def messages(self) -> list[contract.Message]:
        """Return its messages so far, complete lines only."""
        lines = self._out.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line, type=contract.Message) for line in lines]

    @property
    def output(self) -> bytes:
        return self._out.read_bytes()

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code; negative: the signal that killed it."""
        return self.process.wait(DEADLINE_SECONDS)

    def wait_for_phase(self, phase: contract.Phase) -> None:
        """Wait until it reports this phase."""

        def probe() -> bool:
            return any(
                isinstance(each, contract.ProgressMessage) and each.phase == phase for each in self.messages()
            )

        wait_for(f"phase {phase}", probe)

    def wait_until_loading(self, least_rows: int = 1) -> contract.Progress:
        """Wait for progress with rows."""

        def probe() -> contract.Progress | None:
            for message in self.messages():
                if (
                    isinstance(message, contract.ProgressMessage)
                    and message.progress.rows_loaded >= least_rows
                ):
                    return message.progress
            assert self.process.poll() is None, f"the loader has ended: {self.stdout}{self.stderr}"
            return None

        return wait_for("rows to be loaded", probe)

    def receipt(self) -> contract.Receipt:
        """Wait for the end, which must be a publish; return the receipt."""
        code = self.wait()
        last = self.messages()[-1] if self.messages() else None
        assert isinstance(last, contract.Published), (
            f"exit {code}: {self.stdout[-2000:]}{self.stderr[-2000:]}"
        )
        assert code == 0
        return last.receipt

    def failure(self) -> contract.Failed:
        """Wait for the end, which must be a failure, with the same code in message and exit code."""
        code = self.wait()
        last = self.messages()[-1] if self.messages() else None
        assert isinstance(last, contract.Failed), f"exit {code}: {self.stdout[-2000:]}{self.stderr[-2000:]}"
        assert code == contract.FAILURE_KINDS[last.failure.code].exit_code
        return last


class Loaders:
    """Starts loaders on one database, with small segments and parts."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.database_url = database_url
        self._folder = folder

    def start(
        self,
        *arguments: str,
        armed: str | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        redirected: str = "",
    ) -> LoaderProcess:
        """Start one; `armed`: with a failpoint, as failpoint.py has it."""
        armed_environment = {} if armed is None else {"LOADER_FAILPOINT": armed}
        return LoaderProcess(
            self._folder,
            *arguments,
            database_url=self.database_url,
            environment={**armed_environment, **(environment or {})},
            small=arguments[0] == "run",
            stdin=stdin,
            stdout=stdout,
            redirected=redirected,
        )


def query(database_url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def row_count(database_url: str) -> int:
    """Return how many rows are visible in trips; 0 if trips does not exist."""
    if query(database_url, "SELECT to_regclass('public.trips')") == [(None,)]:
        return 0
    count = query(database_url, "SELECT count(*) FROM trips")[0][0]
    assert isinstance(count, int)
    return count


def checksum(database_url: str) -> str:
    """Return a checksum of the rows of trips, independent of their order and place."""
    with psycopg.connect(database_url) as connection:
        return _checksum(connection, "trips")


def checksum_of(database_url: str, csv: bytes) -> str:
    """Return the `checksum` of a trips that holds this file, as the server's own COPY reads it."""
    columns = ", ".join(f"{column.name} {POSTGRES_TYPES[column.kind]}" for column in COLUMNS)
    names = ", ".join(column.name for column in COLUMNS[: LAYOUT_COLUMN_COUNTS[0]])
    with psycopg.connect(database_url) as connection:
        connection.execute(f"CREATE TEMPORARY TABLE plain ({columns})".encode())
        statement = f"COPY plain ({names}) FROM STDIN (FORMAT csv, HEADER)".encode()
        with connection.cursor().copy(statement) as copy:
            copy.write(csv)
        return _checksum(connection, "plain")


def _checksum(connection: psycopg.Connection, table: str) -> str:
    rows = f"SELECT (to_jsonb({table}) - 'import_key' - 'part')::text AS row FROM {table}"
    statement = f"SELECT md5(string_agg(row, ' ' ORDER BY row)) FROM ({rows}) AS rows"
    return str(connection.execute(statement.encode()).fetchall()[0][0])


def start_over(database_url: str) -> None:
    """Empty the database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS trips; DROP SCHEMA IF EXISTS loader CASCADE")


def committed_rows(database_url: str) -> int:
    """Return how many rows are in committed parts, staged or published."""
    if query(database_url, "SELECT to_regclass('loader.part')") == [(None,)]:
        return 0
    count = query(database_url, "SELECT coalesce(sum(row_count), 0)::bigint FROM loader.part")[0][0]
    assert isinstance(count, int)
    return count


def assert_staging_is_whole(database_url: str) -> None:
    """Check that ledger and tables agree on the staging that a loader has left."""
    if query(database_url, "SELECT to_regclass('loader.part')") == [(None,)]:
        return
    parts = query(
        database_url, "SELECT format('import_%s_part_%s', import_key, part), row_count FROM loader.part"
    )
    tables = query(
        database_url,
        "SELECT relname FROM pg_class WHERE relnamespace = 'loader'::regnamespace AND relkind = 'r'"
        " AND relname ~ '_part_'",
    )
    assert {name for (name,) in tables} == {name for name, _ in parts}
    for name, count in parts:
        assert query(database_url, f"SELECT count(*) FROM loader.{name}") == [(count,)]


def leftovers(database_url: str) -> dict[str, object]:
    """Return what an ended import must not leave: staging, backends, locks, unknown tables."""
    found: dict[str, object] = {}
    if query(database_url, "SELECT to_regclass('loader.reject')") != [(None,)]:
        found["staging"] = query(
            database_url, "SELECT id, state FROM loader.import WHERE state <> 'published'"
        )
        found["tables"] = query(
            database_url,
            "SELECT relname FROM pg_class WHERE relnamespace = 'loader'::regnamespace AND relname ~ '^import_'"
            " AND relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM loader.import"
            " WHERE state = 'published' AND relname ~ format('^import_%s(_|$)', import_key))",
        )
    found["backends"] = query(
        database_url,
        "SELECT application_name, state, query FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'loader %'",
    )
    found["locks"] = query(
        database_url,
        "SELECT locktype, objid FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE datname = current_database() AND locktype = 'advisory'",
    )
    return {what: rows for what, rows in found.items() if rows}


def wait_until_disconnected(database_url: str) -> None:
    """Wait for the backends of a killed process to end."""
    wait_for("backends to end", lambda: "backends" not in leftovers(database_url))


def assert_nothing_is_left(database_url: str) -> None:
    """Wait for backends to end, and check that nothing else is left."""
    wait_until_disconnected(database_url)
    assert leftovers(database_url) == {}
