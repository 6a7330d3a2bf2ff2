"""Outages of the database: restarts, standbys, refused connections, slow commits. An import resumes, or can be retried."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from importer.model import State
from loader.contract import FailureCode, ProgressMessage
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    LoaderProcess,
    Loaders,
    assert_nothing_is_left,
    assert_staging_is_whole,
    checksum,
    checksum_of,
    query,
    row_count,
    wait_for,
    with_limits,
)
from tests.support.mid_load import backends, resume_serving, stall_late, start_until_stalled, wait_for_lock
from tests.support.postgres_server import OwnServer, own_server
from tests.support.supervision import QUICK, SMALL, SupervisorHarness, supervising

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own() -> Generator[OwnServer]:
    # As on servers with standbys.
    with own_server(settings={"wal_level": "replica", "log_connections": "on"}) as server:
        yield server


@pytest.fixture
def database_url(own: OwnServer) -> Generator[str]:
    with own.database() as url:
        yield url


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Stops and restarts


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_costs_an_attempt_and_no_row(
    mode: str, own: OwnServer, loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    whole = checksum_of(loaders.database_url, sample)
    loader = start_until_stalled(loaders, server)
    own.stop(mode)
    resume_serving(server)
    own.start()
    assert loader.receipt().attempts >= 2
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


def test_a_long_outage_ends_the_run_and_gc_removes_the_staging(
    own: OwnServer, loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_stalled(loaders, server, environment=with_limits(database_outage_seconds=1))
    own.stop()
    resume_serving(server)
    last = loader.failure()
    own.start()
    assert (last.failure.code, last.staging) == (FailureCode.DATABASE_UNAVAILABLE, "kept")
    assert last.failure.retryable
    assert_staging_is_whole(loaders.database_url)
    assert row_count(loaders.database_url) == 0
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


@pytest.fixture
async def harness(tmp_path: Path, database_url: str) -> AsyncGenerator[SupervisorHarness]:
    """A supervisor whose loaders end at the first outage."""
    impatient = ("env", 'SMALL_LOADER_LIMITS={"database_outage_seconds": 0}', *SMALL)
    async with supervising(tmp_path, database_url, command=impatient, retry_policy=QUICK) as harness:
        yield harness


@pytest.mark.anyio
async def test_a_queue_waits_for_its_database_without_limit(
    own: OwnServer, harness: SupervisorHarness, server: HttpServer
) -> None:
    """The limit is three attempts here, and each loader ends at once."""
    server.rule = stall_late
    import_ids = [await harness.submit(server.url) for _ in range(4)]
    await harness.until_part()
    await asyncio.to_thread(own.stop)
    resume_serving(server)
    for import_id in import_ids[:2]:
        waiting = await harness.until_state(import_id, State.QUEUED)
        assert waiting.error is not None
        assert waiting.error.code is FailureCode.DATABASE_UNAVAILABLE
    before = [await harness.get(import_id) for import_id in import_ids]
    for _ in range(3):
        assert await harness.supervisor.probe.check(0) is not None
        harness.supervisor.wake()
    assert [await harness.get(import_id) for import_id in import_ids] == before
    assert [found.retry_count for found in before] == [0, 0, 0, 0]
    await asyncio.to_thread(own.start)
    receipts = [await harness.receipt(import_id) for import_id in import_ids]
    assert max(receipt.attempts for receipt in receipts) == 2
    assert row_count(harness.database_url) == len(import_ids) * SAMPLE_ROWS
    await asyncio.to_thread(assert_nothing_is_left, harness.database_url)


@pytest.mark.anyio
async def test_an_import_shows_that_it_waits_for_its_database(
    own: OwnServer, tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    server.rule = stall_late
    async with supervising(tmp_path, database_url) as harness:
        import_id = await harness.submit(server.url)
        await harness.until_part()
        await asyncio.to_thread(own.stop)
        found = await harness.until(import_id, lambda found: found.error is not None)
        assert found.error is not None
        assert (found.state, found.error.code) == (State.RUNNING, FailureCode.DATABASE_UNAVAILABLE)
        resume_serving(server)
        await asyncio.to_thread(own.start)
        await harness.until(import_id, lambda found: found.error is None)
        await harness.receipt(import_id)
        assert (await harness.get(import_id)).attempt_count == 1


@pytest.mark.anyio
async def test_a_service_whose_database_is_a_standby_starts_no_loader(
    harness: SupervisorHarness, standby: OwnServer, server: HttpServer
) -> None:
    failure = await harness.supervisor.probe.check(0)
    assert failure is not None
    assert "standby" in failure.message
    import_id = await harness.submit(server.url)
    await harness.supervisor.probe.check(0)
    assert (await harness.get(import_id)).state is State.QUEUED
    promote(standby)
    await harness.receipt(import_id)


@pytest.mark.anyio
@pytest.mark.long
async def test_a_removal_waits_until_the_database_is_back(
    own: OwnServer, harness: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await harness.submit(server.url)
    await harness.receipt(import_id)
    await asyncio.to_thread(own.stop)
    await harness.supervisor.remove(import_id, drops_rows=True)
    assert (await harness.get(import_id)).state is State.REMOVING
    await asyncio.to_thread(own.start)
    await harness.until_gone(import_id)
    assert row_count(harness.database_url) == 0
    await asyncio.to_thread(assert_nothing_is_left, harness.database_url)


# Standbys


@pytest.fixture
def standby(own: OwnServer) -> Generator[OwnServer]:
    """The server after a restart as a standby; promoted at the end."""
    own.stop()
    (own.data / "standby.signal").touch()
    own.start()
    yield own
    promote(own)


def promote(own: OwnServer) -> None:
    with psycopg.connect(own.url, autocommit=True) as connection:
        connection.execute("SELECT pg_promote() WHERE pg_is_in_recovery()")


def test_a_standby_is_reported_at_the_probe(loaders: Loaders, server: HttpServer, standby: OwnServer) -> None:
    last = loaders.start("run", server.url).failure()
    assert (last.failure.code, last.staging) == (FailureCode.DATABASE_UNAVAILABLE, "none")
    assert "standby" in last.failure.message
    assert standby.is_running()


@pytest.mark.long
def test_a_failover_to_a_standby_is_waited_for(
    own: OwnServer, loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    whole = checksum_of(loaders.database_url, sample)
    loader = start_until_stalled(loaders, server)
    own.stop()
    (own.data / "standby.signal").touch()
    own.start()
    before = own.log.count("application_name=loader")
    resume_serving(server)
    wait_for("an attempt at the standby", lambda: own.log.count("application_name=loader") > before)
    promote(own)
    assert loader.receipt().attempts >= 2
    assert checksum(loaders.database_url) == whole
    assert_nothing_is_left(loaders.database_url)


def has_begun_again(loader: LoaderProcess) -> bool:
    """Whether the loader has begun another attempt."""
    phases = [each.phase for each in loader.messages() if isinstance(each, ProgressMessage)]
    return [phase for phase, _ in itertools.groupby(phases)].count("probing") > 1


# Refused connections


@pytest.fixture
def visitor(database_url: str) -> Generator[str]:
    """The URL of a role that is no superuser, so that connection limits apply to it."""
    name = query(database_url, "SELECT current_database()")[0][0]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE visitor LOGIN")
        connection.execute(f"GRANT CREATE ON DATABASE {name} TO visitor".encode())
        connection.execute("GRANT CREATE ON SCHEMA public TO visitor")
    yield database_url.replace("//postgres@", "//visitor@")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY visitor CASCADE; DROP ROLE visitor")


@pytest.mark.long
def test_with_few_connections_a_run_uses_fewer_workers(
    own: OwnServer, visitor: str, server: HttpServer, tmp_path: Path
) -> None:
    own.alter("ALTER ROLE visitor CONNECTION LIMIT 2")
    receipt = Loaders(tmp_path, visitor).start("run", server.url, "--workers", "4").receipt()
    assert (receipt.attempts, receipt.rows_published) == (1, row_count(visitor))


@pytest.mark.parametrize("one_part_bytes", [0, 1_000_000_000])  # one worker per core, or a single one
def test_without_a_connection_for_a_worker_a_run_waits_for_one(
    one_part_bytes: int, own: OwnServer, visitor: str, server: HttpServer, tmp_path: Path
) -> None:
    own.alter("ALTER ROLE visitor CONNECTION LIMIT 2")
    environment = with_limits(one_part_bytes=one_part_bytes)
    with psycopg.connect(visitor):
        loader = Loaders(tmp_path, visitor).start("run", server.url, environment=environment)
        wait_for("another attempt", lambda: has_begun_again(loader))
        assert row_count(own.url) == 0
    assert loader.receipt().attempts >= 2


def test_a_server_without_free_connections_is_reported_at_the_probe(
    own: OwnServer, visitor: str, server: HttpServer, tmp_path: Path
) -> None:
    own.alter("ALTER ROLE visitor CONNECTION LIMIT 0")
    last = Loaders(tmp_path, visitor).start("run", server.url).failure()
    assert (last.failure.code, last.staging) == (FailureCode.DATABASE_UNAVAILABLE, "none")
    assert last.failure.retryable


@pytest.mark.long
def test_a_role_locked_out_in_mid_load_resumes_when_it_may_log_in(
    own: OwnServer, visitor: str, server: HttpServer, tmp_path: Path
) -> None:
    """As when its password is changed, and later corrected."""
    loaders = Loaders(tmp_path, visitor)
    loader = start_until_stalled(loaders, server)
    own.alter("ALTER ROLE visitor NOLOGIN")
    pids = backends(Loaders(tmp_path, own.url), "%")
    for pid in pids:
        query(own.url, f"SELECT pg_terminate_backend({pid})")
    resume_serving(server)
    wait_for("another attempt", lambda: has_begun_again(loader))
    own.alter("ALTER ROLE visitor LOGIN")
    assert loader.receipt().attempts >= 2
    assert_nothing_is_left(visitor)


# Slow commits


def await_waiting_commits(own: OwnServer) -> None:
    """Return once commits wait for the standby: a server applies a reload after a while."""
    with contextlib.closing(psycopg.connect(own.url, autocommit=True)) as canary:
        state = f"SELECT wait_event FROM pg_stat_activity WHERE pid = {canary.info.backend_pid}"

        def does_wait() -> bool:
            if canary.pgconn.transaction_status != TransactionStatus.ACTIVE:
                canary.pgconn.send_query(b"SELECT pg_logical_emit_message(true, 'canary', '')")
            canary.pgconn.consume_input()
            while not canary.pgconn.is_busy() and canary.pgconn.get_result() is not None:
                pass
            return query(own.url, state) == [("SyncRep",)]

        wait_for("commits to wait", does_wait)


@contextlib.contextmanager
def commit_in_flight(own: OwnServer, server: HttpServer) -> Generator[None]:
    """Load until a worker's commit waits for a standby, until the end of the block: it is complete, and not visible."""
    own.alter("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        await_waiting_commits(own)
        resume_serving(server)
        waiting = (
            "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE '% worker 0'"
        )
        wait_for("a commit", lambda: query(own.url, waiting) != [])
        yield
    finally:
        own.alter("ALTER SYSTEM RESET synchronous_standby_names")


@pytest.mark.long
def test_a_part_whose_commit_is_in_flight_does_not_survive_a_roll_back(
    own: OwnServer, loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_stalled(loaders, server, "--workers", "1")
    with commit_in_flight(own, server):
        loader.process.terminate()
        wait_for("the roll back", lambda: backends(loaders, "roll back"))
    last = loader.failure()
    assert (last.failure.code, last.staging) == (FailureCode.TERMINATED, "none")
    assert_nothing_is_left(loaders.database_url)


def test_a_part_whose_commit_is_in_flight_does_not_survive_a_removal_by_another(
    own: OwnServer, loaders: Loaders, server: HttpServer
) -> None:
    """Its loader was killed, and its backend still waits in the commit."""
    import_id = "0190b2c4-0000-7000-8000-000000000004"
    loader = start_until_stalled(loaders, server, "--workers", "1", "--import-id", import_id)
    name = query(loaders.database_url, "SELECT current_database()")[0][0]
    own.alter(f"ALTER DATABASE {name} SET synchronous_commit = local")  # for new sessions
    with commit_in_flight(own, server):
        loader.process.kill()
        wait_for("its lock to be free", lambda: backends(loaders, "control") == [])
        removal = loaders.start("drop", import_id)
        wait_for_lock(loaders, "drop")
    assert removal.wait() == 0, removal.stderr
    assert_nothing_is_left(loaders.database_url)
