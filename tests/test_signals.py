"""SIGTERM, SIGINT, SIGHUP and the end of a supervisor, whatever the loader is doing: it ends in time and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Generator
from pathlib import Path

import msgspec
import psycopg
import pytest
from http_server import Fault, HttpServer, Request
from loader_process import (
    LoaderProcess,
    Loaders,
    assert_nothing_is_left,
    assert_staging_is_whole,
    committed_rows,
    query,
    row_count,
    wait_for,
)

from loader import wire

# Loading has to stop within 2 s, and staging this small goes in no time. The rest is for a busy machine.
STOP_SECONDS = 5.0
# From here on the server sends nothing: the parts before are committed, and one is in the making.
STALL_BYTES = 1_500_000


def stall_late(request: Request) -> Fault | None:
    return Fault(before="stall") if (request.first or 0) >= STALL_BYTES else None


@pytest.fixture
def loaders(tmp_path: Path, database_url: str) -> Loaders:
    return Loaders(tmp_path, database_url)


@pytest.fixture
def server(sample: bytes) -> Generator[HttpServer]:
    """Serves the sample, and stalls late in it, until its rule is taken away."""
    with HttpServer(sample) as server:
        server.rule = stall_late
        yield server


def stop(loader: LoaderProcess, number: signal.Signals = signal.SIGTERM) -> wire.Failed:
    """Send the signal; see that the loader ends in time, and as the signal says."""
    began = time.monotonic()
    loader.send(number)
    last = loader.failure()
    assert time.monotonic() - began < STOP_SECONDS
    assert loader.wait() == (128 + number if number != signal.SIGHUP else wire.ExitCode.SUSPENDED)
    return last


def resume_serving(server: HttpServer) -> None:
    """Let those who wait for a stalled answer ask again, and get it."""
    server.rule = lambda _: None
    server.drop_connections()


def wait_for_part(loaders: Loaders) -> None:
    wait_for("a committed part", lambda: committed_rows(loaders.database_url) > 0)


def wait_for_lock(loaders: Loaders, what: str = "loader %") -> None:
    """Wait until a backend of a loader waits for a lock that another session has."""
    statement = (
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        f" AND application_name LIKE '{what}'"
    )
    wait_for("a wait for a lock", lambda: query(loaders.database_url, statement) != [])


@contextlib.contextmanager
def holding(database_url: str, statement: str) -> Generator[psycopg.Connection]:
    """Hold what the statement locks."""
    with psycopg.connect(database_url) as connection:
        connection.execute(statement.encode())
        yield connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_while_it_connects_to_a_database_that_never_answers(
    number: signal.Signals, tmp_path: Path, server: HttpServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        black_hole.settimeout(60)
        url = f"postgresql://me@127.0.0.1:{black_hole.getsockname()[1]}/trips"
        loader = LoaderProcess(tmp_path, "run", server.url, database_url=url, small=True)
        with black_hole.accept()[0]:
            assert stop(loader, number).staging == "none"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_while_the_source_never_answers(
    number: signal.Signals, loaders: Loaders, server: HttpServer
) -> None:
    server.rule = lambda _: Fault(before="stall")
    loader = loaders.start("run", server.url)
    wait_for("a request", lambda: server.requests)
    assert stop(loader, number).staging == "none"
    assert_nothing_is_left(loaders.database_url)


def test_stopped_while_the_source_does_not_accept(loaders: Loaders) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):  # when the queue is full the kernel drops what comes next
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        loader = loaders.start("run", f"http://127.0.0.1:{full.getsockname()[1]}/")
        loader.wait_for_phase("probing")
        assert stop(loader).staging == "none"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_mid_load_it_takes_committed_parts_back(
    number: signal.Signals, loaders: Loaders, server: HttpServer
) -> None:
    loader = loaders.start("run", server.url)
    wait_for_part(loaders)
    assert stop(loader, number).staging == "none"
    assert row_count(loaders.database_url) == 0
    assert_nothing_is_left(loaders.database_url)


def test_stopped_while_the_database_hangs(loaders: Loaders, server: HttpServer) -> None:
    loader = loaders.start("run", server.url)
    wait_for_part(loaders)
    workers = query(
        loaders.database_url, "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'loader % worker %'"
    )
    frozen = [int(str(pid)) for (pid,) in workers]
    assert frozen
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        loader.send(signal.SIGTERM)
        statement = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'loader % roll back'"
        wait_for("the roll back", lambda: query(loaders.database_url, statement) != [])
        assert time.monotonic() - began < STOP_SECONDS
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert loader.failure().staging == "none"
    assert loader.wait() == wire.ExitCode.TERMINATED
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_while_it_compiles(
    number: signal.Signals, loaders: Loaders, server: HttpServer, tmp_path: Path
) -> None:
    loader = loaders.start("run", server.url, environment={"NUMBA_CACHE_DIR": str(tmp_path / "kernels")})
    loader.wait_for_phase("loading")
    stop(loader, number)
    assert not list((tmp_path / "kernels").rglob("*encode_rows*.nbc"))
    assert row_count(loaders.database_url) == 0
    assert_staging_is_whole(loaders.database_url)


def test_stopped_while_it_waits_for_a_lock_before_it_loads(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    with HttpServer(sample[: sample.index(b"\n", 100_000) + 1]) as other:
        rows = loaders.start("run", other.url).receipt().rows_published
    with holding(loaders.database_url, "LOCK TABLE trips IN ACCESS EXCLUSIVE MODE"):
        loader = loaders.start("run", server.url)
        wait_for_lock(loaders)
        assert stop(loader).staging == "none"
        assert_nothing_is_left(loaders.database_url)
    assert row_count(loaders.database_url) == rows


def test_stopped_while_it_waits_to_publish(loaders: Loaders, server: HttpServer) -> None:
    loader = loaders.start("run", server.url)
    wait_for_part(loaders)
    with holding(loaders.database_url, "LOCK TABLE trips IN ACCESS EXCLUSIVE MODE"):
        resume_serving(server)
        loader.wait_for_phase("publishing")
        wait_for_lock(loaders)
        assert stop(loader).staging == "none"
        assert_nothing_is_left(loaders.database_url)
    assert row_count(loaders.database_url) == 0


def test_while_it_waits_to_publish_others_read_and_then_it_publishes(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = loaders.start("run", server.url)
    wait_for_part(loaders)
    with holding(loaders.database_url, "LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE"):
        resume_serving(server)
        wait_for_lock(loaders)
        assert row_count(loaders.database_url) == 0
    assert loader.receipt().rows_published == row_count(loaders.database_url) > 0
    assert_nothing_is_left(loaders.database_url)


def test_sigterm_can_mean_suspend(loaders: Loaders, server: HttpServer) -> None:
    command = ("run", server.url, "--on-sigterm", "suspend")
    loader = loaders.start(*command)
    wait_for_part(loaders)
    loader.send(signal.SIGTERM)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (wire.FailureCode.SUSPENDED, "kept")
    assert_staging_is_whole(loaders.database_url)
    server.rule = lambda _: None
    assert loaders.start(*command).receipt().attempts == 2


def test_the_first_signal_counts_and_the_roll_back_is_not_stopped(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = loaders.start("run", server.url)
    wait_for_part(loaders)
    (part,) = query(
        loaders.database_url, "SELECT format('loader.import_%s_part_%s', import_key, part) FROM loader.part LIMIT 1"
    )
    with holding(loaders.database_url, f"LOCK TABLE {part[0]} IN ACCESS SHARE MODE"):
        loader.send(signal.SIGTERM)
        wait_for_lock(loaders, "loader % roll back")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            loader.send(number)
    assert loader.failure().failure.code is wire.FailureCode.TERMINATED
    assert_nothing_is_left(loaders.database_url)


def supervised(loaders: Loaders, server: HttpServer, **fields: str) -> LoaderProcess:
    """Start a loader as a supervisor does: the job by stdin, which stays open."""
    loader = loaders.start("run", stdin=subprocess.PIPE)
    assert loader.process.stdin is not None
    loader.process.stdin.write(msgspec.json.encode({"source": server.url, **fields}) + b"\n")
    loader.process.stdin.flush()
    return loader


def test_the_end_of_a_supervisor_suspends(loaders: Loaders, server: HttpServer) -> None:
    import_id = str(uuid.uuid4())
    loader = supervised(loaders, server, import_id=import_id)
    wait_for_part(loaders)
    assert loader.process.stdin is not None
    loader.process.stdin.close()
    last = loader.failure()
    assert (last.failure.code, last.staging) == (wire.FailureCode.SUSPENDED, "kept")
    server.rule = lambda _: None
    receipt = supervised(loaders, server, import_id=import_id).receipt()
    assert (receipt.import_id, receipt.attempts) == (import_id, 2)
    assert_nothing_is_left(loaders.database_url)


SLOW_COMMIT = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON loader.import DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.state = 'published') EXECUTE FUNCTION wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_publish_commit_waits_for_its_answer(
    number: signal.Signals, loaders: Loaders, server: HttpServer
) -> None:
    loader = loaders.start("run", server.url)
    wait_for_part(loaders)
    with psycopg.connect(loaders.database_url) as connection:
        connection.execute(SLOW_COMMIT.encode())
    resume_serving(server)
    commits = "SELECT FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'"
    wait_for("the commit", lambda: query(loaders.database_url, commits) != [])
    loader.send(number)
    assert loader.receipt().rows_published == row_count(loaders.database_url) > 0
    assert_nothing_is_left(loaders.database_url)
