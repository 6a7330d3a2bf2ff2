"""What is committed is never loaded again: after a suspension, a kill or a lost database only the rest is asked for."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import re
import signal
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from loader import contract
from tests.support.crashing_postgres import CRASHES, CrashingPostgres
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    Loaders,
    assert_nothing_is_left,
    assert_staging_is_whole,
    checksum,
    checksum_of,
    committed_rows,
    query,
    row_count,
    wait_for,
    wait_until_disconnected,
    with_limits,
)
from tests.support.mid_load import (
    STALL_BYTES,
    backends,
    holding,
    resume_serving,
    staged_part,
    start_until_stalled,
    wait_for_lock,
)
from tests.support.source_reading import HEAD_BYTES

pytestmark = pytest.mark.slow


@pytest.fixture
def whole(database_url: str, sample: bytes) -> str:
    """The checksum of trips when it holds the file."""
    return checksum_of(database_url, sample)


def end_in_mid_load(
    loaders: Loaders, server: HttpServer, *options: str, number: signal.Signals = signal.SIGHUP
) -> None:
    """Run until some parts are committed and the server stalls, then end the loader; what follows is served."""
    loader = start_until_stalled(loaders, server, *options)
    loader.send(number)
    assert loader.wait() == (-number if number == signal.SIGKILL else contract.ExitCode.SUSPENDED)
    wait_until_disconnected(loaders.database_url)
    assert_staging_is_whole(loaders.database_url)
    assert row_count(loaders.database_url) == 0
    server.rule = lambda _: None
    server.requests.clear()


def collect(loaders: Loaders) -> None:
    """`loader gc` must succeed and leave nothing."""
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


def asked(server: HttpServer) -> list[tuple[int, int]]:
    """Return the ranges [start, end) that were asked for, but for a probe's looks at head and tail."""
    found = [
        re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        for request in server.requests
        if not request.is_tail
    ]
    ranges = [(int(match[1]), int(match[2]) + 1) for match in found if match]
    return sorted(span for span in ranges if span != (0, HEAD_BYTES))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_only_what_is_not_committed_is_asked_for(
    number: signal.Signals, loaders: Loaders, server: HttpServer, whole: str
) -> None:
    end_in_mid_load(loaders, server, number=number)
    committed = query(loaders.database_url, "SELECT byte_start, byte_end FROM loader.block")
    receipt = loaders.start("run", server.url).receipt()
    assert receipt.attempts == 2
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)
    assert asked(server)
    for start, end in asked(server):
        assert not [block for block in committed if int(str(block[0])) < end and int(str(block[1])) > start]


# What no part of the sample reaches.
ONE_GIB = 1 << 30


def test_a_part_is_committed_by_time_while_the_source_is_silent(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    by_time = with_limits(min_part_bytes=ONE_GIB, min_part_seconds=0.2)
    loader = start_until_stalled(loaders, server, environment=by_time)

    def is_all_committed() -> bool:  # that the server has sent but for the last records and one segment
        committed = query(
            loaders.database_url, "SELECT coalesce(max(byte_end), 0) >= 1400000 FROM loader.block"
        )
        return committed == [(True,)]

    wait_for("all that was read to be committed", is_all_committed)
    loader.send(signal.SIGKILL)
    loader.wait()
    server.rule = lambda _: None
    receipt = loaders.start("run", server.url).receipt()
    assert receipt.attempts == 2
    assert checksum(loaders.database_url) == whole


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_small_file_is_one_part_however_many_workers_there_are(
    compress: Callable[[bytes], bytes], loaders: Loaders, sample: bytes, tmp_path: Path, whole: str
) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(compress(sample))
    small = with_limits(min_part_bytes=ONE_GIB, one_part_bytes=len(sample) + 1)
    receipt = loaders.start("run", str(path), "--workers", "3", environment=small).receipt()
    assert receipt.parts == 1
    assert checksum(loaders.database_url) == whole


def test_another_number_of_workers_resumes_the_import(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    end_in_mid_load(loaders, server, "--workers", "3")
    assert loaders.start("run", server.url, "--workers", "1").receipt().attempts == 2
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


def test_a_run_may_be_suspended_again_and_again(loaders: Loaders, server: HttpServer, whole: str) -> None:
    for number in (signal.SIGHUP, signal.SIGKILL, signal.SIGHUP):
        end_in_mid_load(loaders, server, number=number)
    assert loaders.start("run", server.url).receipt().attempts == 4
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


def test_a_gzip_file_is_read_from_its_beginning_but_loaded_from_where_it_was(
    loaders: Loaders, server: HttpServer, sample: bytes, whole: str
) -> None:
    server.content = gzip.compress(sample, 0)  # stored: as long as the data
    end_in_mid_load(loaders, server)
    committed = committed_rows(loaders.database_url)
    loader = loaders.start("run", server.url)
    assert loader.wait_until_loading().rows_loaded >= committed
    assert loader.receipt().attempts == 2
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


def test_a_changed_file_does_not_resume_the_import_that_is_named_and_drops_nothing(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    options = ("--import-id", str(uuid.uuid4()))
    end_in_mid_load(loaders, server, *options)
    server.content, server.etag = sample[: sample.rindex(b"\n", 0, -1) + 1], '"v2"'
    committed = committed_rows(loaders.database_url)
    last = loaders.start("run", server.url, *options).failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.SOURCE_CHANGED, "kept")
    assert committed_rows(loaders.database_url) == committed > 0
    server.content, server.etag = sample, '"v1"'
    assert loaders.start("run", server.url, *options).receipt().attempts == 3
    assert_nothing_is_left(loaders.database_url)


def test_a_changed_file_is_a_new_import_and_gc_takes_what_the_old_one_left(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    end_in_mid_load(loaders, server)
    server.etag = '"v2"'
    receipt = loaders.start("run", server.url).receipt()
    assert (receipt.attempts, receipt.validator) == (1, '"v2"')
    assert checksum(loaders.database_url) == whole
    collect(loaders)


def test_a_file_that_changes_while_it_is_loaded_leaves_nothing(loaders: Loaders, server: HttpServer) -> None:
    loader = start_until_stalled(loaders, server)
    server.etag = '"v2"'
    resume_serving(server)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.SOURCE_CHANGED, "none")
    assert_nothing_is_left(loaders.database_url)


def test_a_file_without_identity_starts_over(loaders: Loaders, server: HttpServer, whole: str) -> None:
    server.etag = None
    end_in_mid_load(loaders, server, number=signal.SIGKILL)
    receipt = loaders.start("run", server.url).receipt()
    assert (receipt.attempts, receipt.validator) == (1, None)
    assert checksum(loaders.database_url) == whole
    collect(loaders)


# A Last-Modified becomes a validator once it is a second old.
@pytest.mark.parametrize("later_etag", [None, '"v1"'])
def test_a_named_import_of_such_a_file_loads_all_of_it_again(
    loaders: Loaders, server: HttpServer, whole: str, later_etag: str | None
) -> None:
    server.etag = None
    options = ("--import-id", str(uuid.uuid4()))
    end_in_mid_load(loaders, server, *options, number=signal.SIGKILL)
    server.etag = later_etag
    receipt = loaders.start("run", server.url, *options).receipt()
    assert (receipt.attempts, receipt.validator) == (2, later_etag)
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


def test_a_published_import_returns_its_receipt_and_loads_nothing(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    options = ("--import-id", str(uuid.uuid4()))
    receipt = loaders.start("run", server.url, *options).receipt()
    server.requests.clear()
    assert loaders.start("run", server.url, *options).receipt() == receipt
    assert asked(server) == []
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_second_loader_of_an_import_is_refused_and_the_first_not_disturbed(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    first = start_until_stalled(loaders, server)
    last = loaders.start("run", server.url).failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.IMPORT_BUSY, "kept")
    resume_serving(server)
    assert first.receipt().attempts == 1
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


def test_a_second_loader_that_is_stopped_while_it_waits_leaves_the_first_alone(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    first = start_until_stalled(loaders, server)
    second = loaders.start("run", server.url)
    controls = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'loader % control'"
    wait_for("the second loader", lambda: len(query(loaders.database_url, controls)) == 2)
    second.send(signal.SIGINT)
    assert second.failure().staging == "none"
    resume_serving(server)
    assert first.receipt().attempts == 1
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize("purpose", ["control", "worker%", "%"])
def test_a_loader_that_loses_its_connections_resumes_by_itself(
    purpose: str, loaders: Loaders, server: HttpServer, whole: str
) -> None:
    loader = start_until_stalled(loaders, server)
    for pid in backends(loaders, purpose):
        query(loaders.database_url, f"SELECT pg_terminate_backend({pid})")
    resume_serving(server)
    assert loader.receipt().attempts == 2
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize("source", ["-", "/dev/stdin", "a named pipe"])
def test_a_pipe_is_not_restarted_when_the_database_is_lost(
    source: str, loaders: Loaders, sample: bytes, tmp_path: Path
) -> None:
    if source == "a named pipe":
        source = str(tmp_path / "pipe")
        os.mkfifo(source)
    loader = loaders.start("run", source, stdin=subprocess.PIPE)
    assert loader.process.stdin is not None
    with contextlib.ExitStack() as stack:
        named = source.endswith("pipe")
        writer = stack.enter_context(open(source, "wb", 0)) if named else loader.process.stdin
        os.write(writer.fileno(), sample[:STALL_BYTES])
        wait_for("a committed part", lambda: committed_rows(loaders.database_url) > 0)
        for pid in backends(loaders, "%"):
            query(loaders.database_url, f"SELECT pg_terminate_backend({pid})")
        with contextlib.suppress(BrokenPipeError):  # it may have ended by now
            os.write(writer.fileno(), sample[STALL_BYTES:])
        last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.DATABASE_UNAVAILABLE, "none")
    assert_nothing_is_left(loaders.database_url)


# As what ends sessions that have been in a transaction for too long: each part is nearly done then.
KILLS_LATE = """
CREATE FUNCTION end_session() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
CREATE TRIGGER late AFTER INSERT ON loader.block EXECUTE FUNCTION end_session()
"""


def test_a_database_in_which_no_part_comes_to_its_end_is_given_up(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    impatient = with_limits(max_attempts_without_progress=3)
    loader = start_until_stalled(loaders, server, environment=impatient)
    with psycopg.connect(loaders.database_url) as connection:
        connection.execute(KILLS_LATE.encode())
    resume_serving(server)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.DATABASE_UNAVAILABLE, "kept")
    assert_staging_is_whole(loaders.database_url)
    with psycopg.connect(loaders.database_url) as connection:
        connection.execute("DROP TRIGGER late ON loader.block")
    # the first had committed something, three made no progress
    assert loaders.start("run", server.url).receipt().attempts == 5
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize("what", CRASHES)
def test_a_loader_resumes_by_itself_when_the_server_has_crashed(
    what: str, crashing_postgres: CrashingPostgres, tmp_path: Path, server: HttpServer, sample: bytes
) -> None:
    loaders = Loaders(tmp_path, crashing_postgres.url)
    loader = start_until_stalled(loaders, server)
    crashing_postgres.crash(what, random.Random(1))
    resume_serving(server)
    assert loader.receipt().attempts >= 2
    assert checksum(loaders.database_url) == checksum_of(loaders.database_url, sample)
    assert_nothing_is_left(loaders.database_url)


def test_gc_takes_what_a_loader_left_that_was_killed_while_it_rolled_back(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    options = ("--import-id", str(uuid.uuid4()))
    loader = start_until_stalled(loaders, server, *options)
    with holding(loaders, f"LOCK TABLE {staged_part(loaders)} IN ACCESS SHARE MODE"):
        loader.send(signal.SIGTERM)
        wait_for_lock(loaders, "roll back")
        loader.send(signal.SIGKILL)
        wait_until_disconnected(loaders.database_url)
    collect(loaders)
    server.rule = lambda _: None
    assert loaders.start("run", server.url, *options).receipt().attempts == 1
    assert checksum(loaders.database_url) == whole


def test_a_named_import_whose_roll_back_was_killed_starts_over(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    options = ("--import-id", str(uuid.uuid4()))
    loader = start_until_stalled(loaders, server, *options)
    with holding(loaders, f"LOCK TABLE {staged_part(loaders)} IN ACCESS SHARE MODE"):
        loader.send(signal.SIGTERM)
        wait_for_lock(loaders, "roll back")
        loader.send(signal.SIGKILL)
    server.rule = lambda _: None
    assert loaders.start("run", server.url, *options).receipt().attempts == 1
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


def test_gc_leaves_the_import_of_a_running_loader_alone(
    loaders: Loaders, server: HttpServer, whole: str
) -> None:
    loader = start_until_stalled(loaders, server)
    collector = loaders.start("gc")
    assert (collector.wait(), collector.stdout) == (0, "")
    resume_serving(server)
    assert loader.receipt().attempts == 1
    assert checksum(loaders.database_url) == whole


def test_two_collections_at_once_do_not_disturb_each_other(loaders: Loaders, server: HttpServer) -> None:
    end_in_mid_load(loaders, server, number=signal.SIGKILL)
    with holding(loaders, f"LOCK TABLE {staged_part(loaders)} IN ACCESS SHARE MODE"):
        first = loaders.start("gc")
        wait_for_lock(loaders)
        second = loaders.start("gc")
        assert (second.wait(), second.stdout) == (0, "")
    assert first.wait() == 0
    assert "removed import" in first.stdout
    assert_nothing_is_left(loaders.database_url)
