"""A run that is stalled in mid-load: some parts are committed, others are open, and the file's server is silent."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Generator, Mapping
from pathlib import Path

import psycopg

from tests.support.http_server import Fault, HttpServer, Request
from tests.support.loader_process import LoaderProcess, Loaders, committed_rows, query, wait_for

# Of the sample's two million bytes: more than the first part of each of two or three workers.
STALL_BYTES = 1_500_000

# A deferred trigger runs within the COMMIT.
SLOW_COMMIT = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON loader.import DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.state = 'published') EXECUTE FUNCTION wait()
"""
# Has a table refer to a row of trips.
_ROW = (
    "import_key, part, request_datetime, pickup_datetime, dropoff_datetime, trip_miles, base_passenger_fare"
)
REFERENCE = (
    f"ALTER TABLE trips ADD UNIQUE ({_ROW})",
    f"CREATE TABLE notes AS SELECT {_ROW} FROM trips LIMIT 1",
    f"ALTER TABLE notes ADD CONSTRAINT about_a_trip FOREIGN KEY ({_ROW}) REFERENCES trips ({_ROW})",
)
# Finds those who are in it.
COMMITS = "SELECT FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'"


def stall_late(request: Request) -> Fault | None:
    if request.first is None:
        return Fault(body_bytes=STALL_BYTES, then="stall")
    return Fault(before="stall") if request.first >= STALL_BYTES and not request.is_tail else None


def stall_after_probe(request: Request) -> Fault | None:
    """For a loader with segments of the usual size, which fetches the sample as one."""
    return None if request.first == 0 else Fault(before="stall")


def start_until_stalled(
    loaders: Loaders,
    server: HttpServer,
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> LoaderProcess:
    """Start a run, and wait until some parts are committed and it waits for the server."""
    server.rule = stall_late
    loader = loaders.start("run", server.url, *options, environment=environment)
    wait_until_stalled(loaders, server)
    return loader


def wait_until_stalled(loaders: Loaders, server: HttpServer) -> None:
    wait_for("a stalled request", lambda: [each for each in server.requests if stall_late(each)])
    wait_for("a committed part", lambda: committed_rows(loaders.database_url) > 0)


def resume_serving(server: HttpServer) -> None:
    """End the stall: drop the stalled connections, and serve the requests that follow."""
    server.rule = lambda _: None
    server.drop_connections()


def staged_part(loaders: Loaders, import_key: int = 1) -> str:
    """Return the table of a committed part."""
    parts = query(
        loaders.database_url,
        "SELECT format('loader.import_%s_part_%s', import_key, part) FROM loader.part"
        f" WHERE import_key = {import_key}",
    )
    return str(parts[0][0])


def backends(loaders: Loaders, purpose: str) -> list[int]:
    """Return the process ids of the backends of loaders that serve this purpose, % for all."""
    statement = f"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'loader % {purpose}'"
    return [int(str(pid)) for (pid,) in query(loaders.database_url, statement)]


def wait_for_lock(loaders: Loaders, purpose: str = "%") -> None:
    """Wait until a loader's backend of this purpose waits for a lock that another session has."""
    statement = (
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        f" AND application_name LIKE 'loader % {purpose}'"
    )
    wait_for("a wait for a lock", lambda: query(loaders.database_url, statement) != [])


@contextlib.contextmanager
def holding(loaders: Loaders, statement: str) -> Generator[None]:
    """Hold the locks of a statement in another session."""
    with psycopg.connect(loaders.database_url) as connection:
        connection.execute(statement.encode())
        yield


def is_unlocked(path: Path) -> bool:
    """Whether no process holds this lock file."""
    with path.open() as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
