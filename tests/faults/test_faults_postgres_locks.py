"""Other sessions lock or alter trips: an import waits within its limit, readers continue, and no staging is lost."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Generator

import psycopg
import pytest

from loader.contract import FailureCode
from loader.postgres import import_lock
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    LoaderProcess,
    Loaders,
    assert_nothing_is_left,
    committed_rows,
    query,
    row_count,
    wait_for,
    wait_until_disconnected,
    with_limits,
    with_lock_limit,
)
from tests.support.mid_load import holding, resume_serving, start_until_stalled, wait_for_lock
from tests.support.postgres_server import installed
from tests.support.target import execute

pytestmark = pytest.mark.slow

# One try at a lock takes eight seconds at most, so readers that arrive meanwhile succeed; the rest is for a busy machine.
TRY_SECONDS = 30


@pytest.fixture
def small_file(sample: bytes) -> Generator[HttpServer]:
    """A server with another, small file."""
    with HttpServer(sample[: sample.index(b"\n", 100_000) + 1]) as server:
        yield server


def assert_readers_come_through(loaders: Loaders, rows: int) -> None:
    """Some of the readers arrive while the loader waits for its lock, and queue behind it."""
    with psycopg.connect(loaders.database_url, autocommit=True) as reader:
        reader.execute(f"SET lock_timeout = '{TRY_SECONDS}s'".encode())
        for _ in range(5):
            wait_for_lock(loaders)
            assert reader.execute("SELECT count(*) FROM trips").fetchall() == [(rows,)]


@pytest.mark.long
def test_new_readers_wait_no_longer_than_one_try_of_a_blocked_replace(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    rows = loaders.start("run", small_file.url).receipt().rows_published
    with holding(loaders, "SELECT FROM trips LIMIT 1"):
        loader = loaders.start("run", server.url, "--mode", "replace")
        assert_readers_come_through(loaders, rows)
    assert loader.receipt().rows_published == row_count(loaders.database_url)
    assert_nothing_is_left(loaders.database_url)


def test_overlapping_readers_do_not_block_a_replace_forever(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    """Two readers of 2.6 s each start in turn, every 1.3 s, so a try of one second never succeeds."""
    loaders.start("run", small_file.url).receipt()
    ended = threading.Event()

    def read(delay_seconds: float) -> None:
        ended.wait(delay_seconds)
        with psycopg.connect(loaders.database_url, autocommit=True) as reader:
            while not ended.is_set():
                reader.execute("SELECT pg_sleep(2.6) FROM (SELECT FROM trips LIMIT 1)")

    readers = [threading.Thread(target=read, args=(delay,)) for delay in (0, 1.3)]
    for reader in readers:
        reader.start()
    replacement = loaders.start("run", server.url, "--mode", "replace", environment=with_lock_limit(30))
    try:
        assert replacement.receipt().rows_published == row_count(loaders.database_url)
    finally:
        ended.set()
        for reader in readers:
            reader.join()
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_replace_also_replaces_what_a_killed_removal_left_in_trips(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    old = loaders.start("run", small_file.url).receipt()
    with holding(loaders, "LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE"):
        removal = loaders.start("drop", "--published", old.import_id)
        wait_for_lock(loaders, "drop")
        kill(loaders, removal)
    assert row_count(loaders.database_url) == old.rows_published
    with psycopg.connect(loaders.database_url) as another:  # so that the loader's tidying does not remove it
        assert import_lock.try_lock(another, old.import_key)
        receipt = loaders.start("run", server.url, "--mode", "replace").receipt()
        assert row_count(loaders.database_url) == receipt.rows_published
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


def test_a_removal_completes_when_its_import_is_replaced_meanwhile(
    loaders: Loaders, small_file: HttpServer
) -> None:
    import_id = loaders.start("run", small_file.url).receipt().import_id
    with psycopg.connect(loaders.database_url) as replacement:
        replacement.execute("LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE")
        removal = loaders.start("drop", "--published", import_id)
        wait_for_lock(loaders, "drop")
        replacement.execute("ALTER TABLE trips DETACH PARTITION loader.import_1")
    assert removal.wait() == 0
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_replace_and_two_removals_of_the_same_imports_all_end(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    """The detach of one removal is pending, the other removal waits for it."""
    whole = loaders.start("run", small_file.url).receipt()
    old = loaders.start("run", server.url).receipt()
    with holding(loaders, "SELECT FROM trips LIMIT 1"):
        removals = [loaders.start("drop", "--published", old.import_id)]
        wait_for("its rows to vanish", lambda: row_count(loaders.database_url) == whole.rows_published)
        removals.append(loaders.start("drop", "--published", whole.import_id))
        removing = "SELECT FROM loader.import WHERE state = 'removing'"
        wait_for("both to be marked", lambda: len(query(loaders.database_url, removing)) == 2)
        replacement = loaders.start("run", server.url, "--mode", "replace")
        replacement.wait_for_phase("publishing")
        wait_for_lock(loaders, "control")
    rows = replacement.receipt().rows_published
    assert [each.wait() for each in removals] == [0, 0]
    assert row_count(loaders.database_url) == rows
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_removal_waits_for_a_long_reader_and_blocks_no_new_reader(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    import_id = loaders.start("run", small_file.url).receipt().import_id
    rows = loaders.start("run", server.url).receipt().rows_published
    with holding(loaders, "SELECT FROM trips LIMIT 1"):
        removal = loaders.start("drop", "--published", import_id)
        wait_for("its rows to vanish", lambda: row_count(loaders.database_url) == rows)
        assert_readers_come_through(loaders, rows)
    assert removal.wait() == 0
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize("are_killed", [pytest.param(False, marks=pytest.mark.long), True])
def test_two_removals_at_once_end_and_gc_completes_killed_ones(
    are_killed: bool, loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    """A table has one pending detach at a time: here that of the younger import, while gc begins with the older one."""
    older = loaders.start("run", small_file.url).receipt()
    younger = loaders.start("run", server.url).receipt()
    with holding(loaders, "SELECT FROM trips LIMIT 1"):
        first = loaders.start("drop", "--published", younger.import_id)
        wait_for("its rows to vanish", lambda: row_count(loaders.database_url) == older.rows_published)
        if are_killed:
            kill(loaders, first)
        second = loaders.start("drop", "--published", older.import_id)
        detaching = (
            "SELECT FROM pg_stat_activity WHERE application_name LIKE '% drop' AND query LIKE 'ALTER%'"
        )
        wait_for("its turn", lambda: len(query(loaders.database_url, detaching)) == (1 if are_killed else 2))
        if are_killed:
            kill(loaders, second)
    if are_killed:
        assert loaders.start("gc").wait() == 0
    else:
        assert (first.wait(), second.wait()) == (0, 0)
    assert row_count(loaders.database_url) == 0
    assert_nothing_is_left(loaders.database_url)


def kill(loaders: Loaders, loader: LoaderProcess) -> None:
    loader.process.kill()
    wait_until_disconnected(loaders.database_url)


@contextlib.contextmanager
def dumping(loaders: Loaders) -> Generator[subprocess.Popen[bytes]]:
    """Run a pg_dump of the database that holds its locks until the end of the block, because it can't write."""
    program = installed()[18] / "pg_dump"
    with subprocess.Popen([program, loaders.database_url], stdout=subprocess.PIPE) as dump:
        locked = (
            "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE application_name = 'pg_dump' AND relation = 'loader.reject'::regclass"
        )
        wait_for("pg_dump", lambda: query(loaders.database_url, locked) != [])
        yield dump
        assert dump.stdout is not None
        assert b"PostgreSQL database dump complete" in dump.stdout.read()
    assert dump.returncode == 0


# Attaching a part to the import's table needs this lock; so do VACUUM and ANALYZE, which an operator may run.
HELD = "LOCK TABLE loader.import_1 IN SHARE UPDATE EXCLUSIVE MODE"


def test_an_import_whose_own_table_is_locked_loads_and_keeps_all(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_stalled(loaders, server, "--workers", "1", environment=with_lock_limit(1))
    with holding(loaders, HELD):
        resume_serving(server)
        last = loader.failure()
        assert (last.failure.code, last.staging) == (FailureCode.TABLE_LOCKED, "kept")
        assert committed_rows(loaders.database_url) == SAMPLE_ROWS
    assert loaders.start("run", server.url).receipt().attempts == 2
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_failed_run_ends_while_its_own_table_is_locked(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    server.content = sample + b"a bad row\n"
    loader = start_until_stalled(loaders, server, "--workers", "1", environment=with_lock_limit(1))
    with holding(loaders, HELD):
        resume_serving(server)
        last = loader.failure()
        assert (last.failure.code, last.staging) == (FailureCode.BAD_ROW, "unknown")
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_an_import_waits_for_a_locked_trips_no_longer_than_its_limit(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    loaders.start("run", small_file.url).receipt()
    with holding(loaders, "LOCK TABLE trips IN ACCESS EXCLUSIVE MODE"):
        impatient = with_lock_limit(1)
        last = loaders.start("run", server.url, environment=impatient).failure()
    assert (last.failure.code, last.staging) == (FailureCode.TABLE_LOCKED, "kept")
    loaders.start("run", server.url).receipt()
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_an_import_is_published_while_pg_dump_reads_trips(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    loaders.start("run", small_file.url).receipt()
    with dumping(loaders):
        receipt = loaders.start("run", server.url).receipt()
        assert row_count(loaders.database_url) > receipt.rows_published
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_replace_and_a_removal_wait_for_pg_dump(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    import_id = loaders.start("run", small_file.url).receipt().import_id
    rows = loaders.start("run", server.url).receipt().rows_published
    with dumping(loaders):
        removal = loaders.start("drop", "--published", import_id)
        wait_for("its rows to vanish", lambda: row_count(loaders.database_url) == rows)
        replacement = loaders.start("run", small_file.url, "--mode", "replace")
        replacement.wait_for_phase("publishing")
        assert_readers_come_through(loaders, rows)
    assert removal.wait() == 0
    assert replacement.receipt().rows_published == row_count(loaders.database_url)
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_dump_of_committed_parts_delays_the_publish(loaders: Loaders, server: HttpServer) -> None:
    budget_seconds = 1
    environment = with_limits(trips_lock_seconds=budget_seconds)
    loader = start_until_stalled(loaders, server, environment=environment)
    with dumping(loaders):
        resume_serving(server)
        wait_for_lock(loaders, "control")
        began = time.monotonic()
        wait_for("more than the budget", lambda: time.monotonic() > began + 5 * budget_seconds)
        assert loader.process.poll() is None
    receipt = loader.receipt()
    assert (receipt.attempts, receipt.rows_published) == (1, SAMPLE_ROWS)
    assert_nothing_is_left(loaders.database_url)


ALTERED = {
    "ALTER TABLE trips RENAME tips TO tip": "ALTER TABLE trips RENAME tip TO tips",
    "ALTER TABLE trips ALTER tips TYPE numeric": "ALTER TABLE trips ALTER tips TYPE double precision",
    "ALTER TABLE trips ADD CONSTRAINT fair CHECK (tips < 1e9)": "ALTER TABLE trips DROP CONSTRAINT fair",
    "CREATE UNIQUE INDEX one ON trips (import_key, part, hvfhs_license_num)": "DROP INDEX one",
    "CREATE UNIQUE INDEX one ON trips (import_key, hvfhs_license_num)": "DROP INDEX one",
    "ALTER TABLE trips RENAME TO journeys": "ALTER TABLE journeys RENAME TO trips",
}


QUICK = [alter for alter in ALTERED if "TYPE" in alter]


@pytest.mark.parametrize(
    "alter", [*QUICK, *(pytest.param(each, marks=pytest.mark.long) for each in ALTERED if each not in QUICK)]
)
def test_a_change_of_trips_keeps_the_staging_until_it_is_undone(
    alter: str, loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_stalled(loaders, server)
    execute(loaders.database_url, alter)
    resume_serving(server)
    last = loader.failure()
    is_rows_fault = "hvfhs_license_num" in alter  # many rows have one license number
    expected = FailureCode.TABLE_MISMATCH if is_rows_fault else FailureCode.TABLE_CHANGED
    assert (last.failure.code, last.staging) == (expected, "kept")
    execute(loaders.database_url, ALTERED[alter])
    assert loaders.start("run", server.url).receipt().attempts == 2
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_the_next_attempt_after_a_change_of_trips_keeps_the_staging(
    loaders: Loaders, server: HttpServer
) -> None:
    """As the service does, which retries by itself."""
    options = ("--import-id", "0190b2c4-0000-7000-8000-000000000003")
    loader = start_until_stalled(loaders, server, *options)
    execute(loaders.database_url, "ALTER TABLE trips ALTER tips TYPE numeric")
    resume_serving(server)
    assert loader.failure().staging == "kept"
    assert loaders.start("run", server.url, *options).failure().failure.code is FailureCode.TABLE_CHANGED
    assert committed_rows(loaders.database_url) == SAMPLE_ROWS
    execute(loaders.database_url, "ALTER TABLE trips ALTER tips TYPE double precision")
    assert loaders.start("run", server.url, *options).receipt().attempts == 2
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_an_index_that_no_import_can_have_is_reported_before_loading(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    import_id = loaders.start("run", small_file.url).receipt().import_id
    assert loaders.start("drop", "--published", import_id).wait() == 0
    execute(loaders.database_url, "CREATE UNIQUE INDEX one ON trips (import_key, tips)")
    last = loaders.start("run", server.url).failure()
    assert (last.failure.code, last.staging) == (FailureCode.TABLE_MISMATCH, "none")
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize(
    "constraint",
    ["CHECK (tips < 5)", "UNIQUE (import_key, part, trip_miles)"],
)
@pytest.mark.long
def test_a_row_that_violates_a_constraint_of_trips_is_reported(
    constraint: str, loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    loaders.start("run", small_file.url).receipt()
    execute(loaders.database_url, f"DELETE FROM trips; ALTER TABLE trips ADD CONSTRAINT mine {constraint}")
    last = loaders.start("run", server.url).failure()
    assert (last.failure.code, last.staging) == (FailureCode.BAD_ROW, "none")
    assert "constraint" in last.failure.message
    assert_nothing_is_left(loaders.database_url)


def test_imports_enter_and_leave_a_trips_with_a_default_partition(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    url = loaders.database_url
    loaders.start("run", small_file.url).receipt()
    execute(url, "CREATE TABLE others PARTITION OF trips DEFAULT")
    execute(url, "INSERT INTO trips (import_key, part, tips) VALUES (-1, 1, 5)")
    receipt = loaders.start("run", server.url, "--mode", "replace").receipt()
    assert row_count(url) == receipt.rows_published + 1
    assert loaders.start("drop", "--published", receipt.import_id).wait() == 0
    assert query(url, "SELECT import_key, tips FROM trips") == [(-1, 5.0)]
    assert_nothing_is_left(url)
