"""SIGTERM, SIGINT, SIGHUP and the end of a supervisor in every phase: the loader ends in time and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from loader import contract
from loader.embedded.cluster import CLUSTER
from loader.embedded.server import SERVER_LOCK
from tests.support.http_server import Fault, HttpServer
from tests.support.loader_process import (
    DEADLINE_SECONDS,
    LoaderProcess,
    Loaders,
    assert_nothing_is_left,
    assert_staging_is_whole,
    committed_rows,
    query,
    row_count,
    wait_for,
    wait_until_disconnected,
    with_lock_limit,
)
from tests.support.mid_load import (
    STALL_BYTES,
    backends,
    holding,
    is_unlocked,
    resume_serving,
    staged_part,
    stall_late,
    start_until_stalled,
    wait_for_lock,
    wait_until_stalled,
)
from tests.support.postgres_proxy import Proxy

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

# Loading has to stop within 2 s, and staging this small goes in no time. The rest is for a busy machine.
STOP_SECONDS = 5.0


def stop(loader: LoaderProcess, number: signal.Signals = signal.SIGTERM) -> contract.Failed:
    """Send the signal; check that the loader ends in time, with the signal's code."""
    began = time.monotonic()
    loader.send(number)
    last = loader.failure()
    assert time.monotonic() - began < STOP_SECONDS
    assert loader.wait() == (128 + number if number != signal.SIGHUP else contract.ExitCode.SUSPENDED)
    return last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_while_it_connects_to_a_database_that_never_responds(
    number: signal.Signals, tmp_path: Path, server: HttpServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        black_hole.settimeout(60)
        url = f"postgresql://me@127.0.0.1:{black_hole.getsockname()[1]}/trips"
        loader = LoaderProcess(tmp_path, "run", server.url, database_url=url, small=True)
        with black_hole.accept()[0]:
            assert stop(loader, number).staging == "none"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_while_the_source_never_responds(
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
    loader = start_until_stalled(loaders, server)
    assert stop(loader, number).staging == "none"
    assert row_count(loaders.database_url) == 0
    assert_nothing_is_left(loaders.database_url)


def test_stopped_while_the_database_hangs(loaders: Loaders, server: HttpServer) -> None:
    loader = start_until_stalled(loaders, server)
    frozen = backends(loaders, "worker%")
    assert frozen
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        loader.send(signal.SIGTERM)
        wait_for("the roll back", lambda: backends(loaders, "roll back"))
        assert time.monotonic() - began < STOP_SECONDS
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert loader.failure().staging == "none"
    assert loader.wait() == contract.ExitCode.TERMINATED
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_while_it_compiles(
    number: signal.Signals, loaders: Loaders, server: HttpServer, tmp_path: Path
) -> None:
    loader = loaders.start("run", server.url, environment={"NUMBA_CACHE_DIR": str(tmp_path / "kernels")})
    wait_for("a worker", lambda: backends(loaders, "worker%"))
    stop(loader, number)
    assert not list((tmp_path / "kernels").rglob("*.kernel"))
    assert row_count(loaders.database_url) == 0
    assert_staging_is_whole(loaders.database_url)


def test_stopped_while_it_waits_for_a_lock_before_it_loads(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    with HttpServer(sample[: sample.index(b"\n", 100_000) + 1]) as other:
        rows = loaders.start("run", other.url).receipt().rows_published
    with holding(loaders, "LOCK TABLE trips IN ACCESS EXCLUSIVE MODE"):
        loader = loaders.start("run", server.url)
        wait_for_lock(loaders)
        assert stop(loader).staging == "none"
        assert_nothing_is_left(loaders.database_url)
    assert row_count(loaders.database_url) == rows


def test_stopped_while_it_waits_to_publish(loaders: Loaders, server: HttpServer) -> None:
    loader = start_until_stalled(loaders, server)
    with holding(loaders, "LOCK TABLE trips IN ACCESS EXCLUSIVE MODE"):
        resume_serving(server)
        loader.wait_for_phase("publishing")
        wait_for_lock(loaders)
        assert stop(loader).staging == "none"
        assert_nothing_is_left(loaders.database_url)
    assert row_count(loaders.database_url) == 0


def test_while_it_waits_to_publish_others_read_and_then_it_publishes(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_stalled(loaders, server)
    with holding(loaders, "LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE"):
        resume_serving(server)
        wait_for_lock(loaders)
        assert row_count(loaders.database_url) == 0
    assert loader.receipt().rows_published == row_count(loaders.database_url) > 0
    assert_nothing_is_left(loaders.database_url)


def test_stopped_while_a_reader_keeps_it_from_replacing(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    with HttpServer(sample[: sample.index(b"\n", 100_000) + 1]) as other:
        rows = loaders.start("run", other.url).receipt().rows_published
    with holding(loaders, "LOCK TABLE trips IN ACCESS SHARE MODE"):
        loader = loaders.start("run", server.url, "--mode", "replace")
        wait_for_lock(loaders)
        assert row_count(loaders.database_url) == rows
        assert stop(loader).staging == "none"
    assert row_count(loaders.database_url) == rows
    assert_nothing_is_left(loaders.database_url)


def test_sigterm_can_mean_suspend(loaders: Loaders, server: HttpServer) -> None:
    options = ("--on-sigterm", "suspend")
    loader = start_until_stalled(loaders, server, *options)
    loader.send(signal.SIGTERM)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.SUSPENDED, "kept")
    assert_staging_is_whole(loaders.database_url)
    server.rule = lambda _: None
    assert loaders.start("run", server.url, *options).receipt().attempts == 2


def test_the_first_signal_counts_and_the_roll_back_is_not_stopped(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_stalled(loaders, server)
    with holding(loaders, f"LOCK TABLE {staged_part(loaders)} IN ACCESS SHARE MODE"):
        loader.send(signal.SIGTERM)
        wait_for_lock(loaders, "roll back")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            loader.send(number)
    assert loader.failure().failure.code is contract.FailureCode.TERMINATED
    assert_nothing_is_left(loaders.database_url)


def test_a_stopped_run_waits_a_limited_time_for_readers_of_its_parts(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_stalled(loaders, server, environment=with_lock_limit(1))
    # as pg_dump does
    with holding(loaders, f"LOCK TABLE {staged_part(loaders)} IN ACCESS SHARE MODE"):
        loader.send(signal.SIGTERM)
        last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.CLEANUP_PENDING, "unknown")
    assert row_count(loaders.database_url) == 0
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


def test_a_stop_takes_away_what_an_earlier_attempt_at_the_import_left(
    loaders: Loaders, server: HttpServer
) -> None:
    options = ("--import-id", str(uuid.uuid4()))
    first = start_until_stalled(loaders, server, *options)
    assert stop(first, signal.SIGHUP).staging == "kept"
    server.requests.clear()
    server.rule = lambda _: Fault(before="stall")
    second = loaders.start("run", server.url, *options)
    wait_for("a request", lambda: server.requests)
    assert stop(second).staging == "none"
    assert_nothing_is_left(loaders.database_url)


# The advisory lock of the first import of a database, see import_lock.py.
FIRST_IMPORT_LOCK = f"SELECT pg_advisory_xact_lock({0x6C6F6164}, 1)"


def test_stopped_while_the_database_is_away_it_reports_what_to_do(
    loaders: Loaders, server: HttpServer, tmp_path: Path
) -> None:
    with Proxy(loaders.database_url) as proxy:
        loader = start_until_stalled(Loaders(tmp_path, proxy.url), server, environment=with_lock_limit(1))
    wait_until_disconnected(loaders.database_url)
    loader.send(signal.SIGTERM)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.CLEANUP_PENDING, "unknown")
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


def test_stopped_while_it_reads_a_pipe_that_is_silent(loaders: Loaders, sample: bytes) -> None:
    loader = loaders.start("run", "-", stdin=subprocess.PIPE)
    assert loader.process.stdin is not None
    loader.process.stdin.write(sample[:STALL_BYTES])
    loader.process.stdin.flush()
    wait_for("a committed part", lambda: committed_rows(loaders.database_url) > 0)
    assert stop(loader, signal.SIGINT).staging == "none"
    assert_nothing_is_left(loaders.database_url)


def test_a_removal_that_is_stopped_ends_quietly_and_gc_ends_it(loaders: Loaders, server: HttpServer) -> None:
    import_id = str(uuid.uuid4())
    assert (
        stop(start_until_stalled(loaders, server, "--import-id", import_id), signal.SIGHUP).staging == "kept"
    )
    with holding(loaders, f"LOCK TABLE {staged_part(loaders)} IN ACCESS SHARE MODE"):
        removal = loaders.start("drop", import_id)
        wait_for_lock(loaders, "drop")
        removal.send(signal.SIGINT)
        assert (removal.wait(), removal.stderr) == (contract.ExitCode.INTERRUPTED, "")
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


def test_stopped_before_it_holds_its_new_import_it_takes_it_back(
    loaders: Loaders, server: HttpServer
) -> None:
    with holding(loaders, FIRST_IMPORT_LOCK):
        loader = loaders.start("run", server.url)
        imports = "SELECT FROM loader.import"
        exists = "SELECT to_regclass('loader.import') IS NOT NULL"
        wait_for("the ledger", lambda: query(loaders.database_url, exists) == [(True,)])
        wait_for("the import", lambda: query(loaders.database_url, imports) != [])
        loader.send(signal.SIGTERM)
        wait_for("the roll back", lambda: backends(loaders, "roll back"))
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.TERMINATED, "none")
    assert_nothing_is_left(loaders.database_url)


def test_killed_while_it_waits_for_a_lock_it_leaves_no_backend_waiting(
    loaders: Loaders, server: HttpServer
) -> None:
    loaders.start("run", server.url).receipt()
    with holding(loaders, "LOCK TABLE trips IN ACCESS EXCLUSIVE MODE"):
        loader = loaders.start("run", server.url, "--force")
        wait_for_lock(loaders)
        loader.send(signal.SIGKILL)
        wait_until_disconnected(loaders.database_url)


def test_stopped_while_the_embedded_server_starts_it_leaves_no_server(
    tmp_path: Path, server: HttpServer
) -> None:
    folder = tmp_path / "data"
    loader = LoaderProcess(tmp_path, "run", server.url, "--data-dir", str(folder))
    wait_for("the server's files", (folder / CLUSTER).exists)
    assert stop(loader).staging == "none"
    wait_for("the server to end", lambda: is_unlocked(folder / SERVER_LOCK))


def test_sigterm_to_an_interpreter_that_has_hardly_started_ends_it(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = loaders.start("run", server.url)
    loader.send(signal.SIGTERM)
    assert loader.wait() in (-signal.SIGTERM, contract.ExitCode.TERMINATED)
    assert_nothing_is_left(loaders.database_url)


@contextlib.contextmanager
def ignoring(*numbers: signal.Signals) -> Generator[None]:
    """Ignore signals within the block: a child that is started there inherits that."""
    former = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_nohup_or_a_shell_ignores_stays_ignored(
    number: signal.Signals, loaders: Loaders, server: HttpServer
) -> None:
    with ignoring(number):
        loader = start_until_stalled(loaders, server)
    loader.send(number)
    resume_serving(server)
    import_id = loader.receipt().import_id
    with ignoring(number), holding(loaders, "LOCK TABLE trips IN ACCESS SHARE MODE"):
        removal = loaders.start("drop", "--published", import_id)
        wait_for_lock(loaders, "drop")
        removal.send(number)
    assert removal.wait() == 0
    assert_nothing_is_left(loaders.database_url)


def test_a_run_whose_machine_slept_continues_when_it_wakes(loaders: Loaders, server: HttpServer) -> None:
    """A suspended laptop: its peers have given its connections up meanwhile."""
    loader = start_until_stalled(loaders, server)
    loader.send(signal.SIGSTOP)
    ended = query(
        loaders.database_url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'loader %'",
    )
    assert ended
    resume_serving(server)
    loader.send(signal.SIGCONT)
    assert loader.receipt().rows_published == row_count(loaders.database_url)
    assert_nothing_is_left(loaders.database_url)


def test_a_sigterm_ends_a_run_that_was_started_with_it_ignored(loaders: Loaders, server: HttpServer) -> None:
    with ignoring(signal.SIGTERM):
        loader = start_until_stalled(loaders, server)
    assert stop(loader).staging == "none"
    assert_nothing_is_left(loaders.database_url)


def supervised(
    loaders: Loaders, server: HttpServer, *, stdout: int | None = None, **fields: str
) -> LoaderProcess:
    """Start a loader as a supervisor does: the job by stdin, which stays open."""
    loader = loaders.start("run", stdin=subprocess.PIPE, stdout=stdout)
    assert loader.process.stdin is not None
    server.rule = stall_late
    loader.process.stdin.write(msgspec.json.encode({"source": server.url, **fields}) + b"\n")
    loader.process.stdin.flush()
    wait_until_stalled(loaders, server)
    return loader


def test_the_end_of_a_supervisor_suspends(loaders: Loaders, server: HttpServer) -> None:
    import_id = str(uuid.uuid4())
    loader = supervised(loaders, server, import_id=import_id)
    assert loader.process.stdin is not None
    loader.process.stdin.close()
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.SUSPENDED, "kept")
    server.rule = lambda _: None
    receipt = loaders.start("run", server.url, "--import-id", import_id).receipt()
    assert (receipt.import_id, receipt.attempts) == (import_id, 2)
    assert_nothing_is_left(loaders.database_url)


def test_a_supervisor_that_was_killed_suspends(loaders: Loaders, server: HttpServer) -> None:
    loader = supervised(loaders, server, stdout=subprocess.PIPE)
    for stream in (loader.process.stdout, loader.process.stdin):
        assert stream is not None
        stream.close()
    assert loader.wait() == contract.ExitCode.SUSPENDED
    assert_staging_is_whole(loaders.database_url)
    assert committed_rows(loaders.database_url) > 0


@pytest.mark.parametrize(("last_line", "code"), [(b"", 0), (b"not a trip\n", contract.ExitCode.DATA)])
def test_a_run_without_a_reader_of_its_output_continues_and_exits(
    last_line: bytes, code: int, loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    server.content, server.rule = sample + last_line, stall_late
    loader = loaders.start("run", server.url, stdout=subprocess.PIPE)
    assert loader.process.stdout is not None
    loader.process.stdout.readline()
    loader.process.stdout.close()
    wait_until_stalled(loaders, server)
    resume_serving(server)
    assert loader.wait() == code
    assert (row_count(loaders.database_url) > 0) == (code == 0)
    assert_nothing_is_left(loaders.database_url)


@pytest.fixture
def full_pipe() -> Generator[tuple[int, int]]:
    """Yield the reading and the writing end of a pipe that takes nothing more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b" " * 4096)
    os.set_blocking(writer, True)
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.mark.parametrize("progress", ["json", "none"])
def test_a_reader_that_stops_reading_holds_up_neither_the_run_nor_its_end(
    progress: str, full_pipe: tuple[int, int], loaders: Loaders, server: HttpServer
) -> None:
    reader, writer = full_pipe
    server.rule = stall_late
    stopped = loaders.start("run", "--progress", progress, server.url, stdout=writer)
    wait_until_stalled(loaders, server)
    stopped.send(signal.SIGTERM)
    assert stopped.wait() == contract.ExitCode.TERMINATED
    assert_nothing_is_left(loaders.database_url)
    server.rule = lambda _: None
    published = loaders.start("run", "--progress", progress, server.url, stdout=writer)
    wait_for("the publish", lambda: row_count(loaders.database_url) > 0)
    os.close(writer)
    with open(reader, "rb") as output:
        said = output.read()
    assert published.wait() == 0
    assert b"published" in said
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize(
    ("closed", "last_line", "code"),
    [(">&-", b"", 0), (">&-", b"not a trip\n", contract.ExitCode.DATA), ("<&- >&- 2>&-", b"", 0)],
)
def test_a_run_without_streams_exits_as_it_ends(
    closed: str, last_line: bytes, code: int, loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    server.content = sample + last_line
    loader = loaders.start("run", "--progress", "json", server.url, redirected=closed)
    assert loader.wait() == code
    assert (row_count(loaders.database_url) > 0) == (code == 0)
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_an_unexpected_error_ends_a_run_whose_stderr_is_blocked(loaders: Loaders, server: HttpServer) -> None:
    loader = loaders.start("run", server.url, armed="error@5", redirected="2>/dev/full")
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.INTERNAL_ERROR, "none")
    assert_nothing_is_left(loaders.database_url)


UNSHOWN = """
from contextlib import nullcontext
from loader.pipeline import run
from loader.contract import Job

def no_ticker(*_: object) -> None:
    raise RuntimeError("can't start new thread")

run.Ticker = no_ticker
end = run.run(Job("trips.csv", import_id="an id"), lambda: nullcontext(""), lambda _: None, is_supervised=False)
print(end.failure.code, end.staging, end.import_id)
"""


def test_a_run_ends_even_if_its_thread_fails_before_it_starts() -> None:
    run = subprocess.run(
        [sys.executable, "-c", UNSHOWN], capture_output=True, timeout=DEADLINE_SECONDS, check=True
    )
    assert run.stdout == b"internal_error unknown an id\n"
    assert b"can't start new thread" in run.stderr
