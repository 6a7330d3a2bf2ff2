"""Cancelling in any state and at any moment: nothing is left, or everything was published, and the state says which."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from importer.model import FINISHED, State
from importer.store.store import Store
from importer.supervisor.cleanup import Cleanup
from importer.supervisor.ledger import LedgerReader
from importer.supervisor.loaders import Loaders
from importer.supervisor.outcome import LoaderExit
from importer.tasks import UnhandledErrors
from loader.contract import FailureCode
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import query, row_count
from tests.support.mid_load import COMMITS, SLOW_COMMIT, resume_serving
from tests.support.supervision import (
    DEADLINE_SECONDS,
    LATE_RETRIES,
    MISBEHAVING,
    SupervisorHarness,
    assert_all_gone,
    children,
    holding,
    loader,
    stall,
    supervising,
    until,
    waits_for_lock,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_queued_import_is_cancelled_at_once(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    stall(server)
    async with supervising(tmp_path, database_url, slots=1) as harness:
        running = await harness.submit(server.url)
        queued = await harness.submit(server.url)
        await harness.until_phase(running, "loading")
        found = await harness.supervisor.cancel(queued)
        assert found is not None
        assert found.state is State.CANCELLED
        assert await harness.supervisor.cancel(queued) is None  # it has finished
        assert (await harness.get(running)).state is State.RUNNING
        assert await harness.attempts(queued) == []


async def test_an_import_cancelled_fifty_times_while_its_source_stalls_is_rolled_back(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await harness.submit(server.url)
    await harness.until_part()
    answers = await asyncio.gather(*(harness.supervisor.cancel(import_id) for _ in range(50)))
    assert {answer.state for answer in answers if answer is not None} == {State.CANCELLING}
    await harness.until_state(import_id, State.CANCELLED)
    assert await harness.exit_codes(import_id) == [143]
    await assert_all_gone(harness.database_url)
    assert row_count(harness.database_url) == 0


async def test_an_import_cancelled_while_its_loader_starts_is_rolled_back(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await harness.submit(server.url)
    await harness.until_state(import_id, State.RUNNING)
    await harness.supervisor.cancel(import_id)
    await harness.until_state(import_id, State.CANCELLED)
    await assert_all_gone(harness.database_url)


async def test_an_import_cancelled_while_it_waits_to_publish_is_rolled_back(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await harness.submit(server.url)
    await harness.until_part()
    with holding(harness.database_url, "LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE"):
        resume_serving(server)
        await harness.until_phase(import_id, "publishing")
        await until("a wait for trips", lambda: waits_for_lock(harness.database_url))
        await harness.supervisor.cancel(import_id)
        await harness.until_state(import_id, State.CANCELLED)
    assert row_count(harness.database_url) == 0
    await assert_all_gone(harness.database_url)


async def test_an_import_cancelled_between_two_attempts_is_rolled_back(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, retry_policy=LATE_RETRIES) as harness:
        import_id = await killed_in_mid_load(harness, server)
        found = await harness.supervisor.cancel(import_id)
        assert found is not None
        assert found.state is State.CANCELLING
        await harness.until_state(import_id, State.CANCELLED)
        assert await harness.exit_codes(import_id) == [-9]
    await assert_all_gone(database_url)


async def killed_in_mid_load(harness: SupervisorHarness, server: HttpServer) -> UUID:
    """Submit an import, kill its loader after the first commit, and wait for the failure."""
    stall(server)
    import_id = await harness.submit(server.url)
    await harness.until_part()
    loader().kill()
    found = await harness.until(import_id, lambda found: found.error is not None)
    assert found.error is not None
    assert "SIGKILL" in found.error.message
    return import_id


async def test_an_import_is_cancelled_only_after_its_staging_is_removed(
    tmp_path: Path, database_url: str, postgres: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, retry_policy=LATE_RETRIES) as harness:
        import_id = await killed_in_mid_load(harness, server)
        name = database_url.rpartition("/")[2].partition("?")[0]
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            await harness.supervisor.cancel(import_id)
            changed = asyncio.create_task(harness.until_state(import_id, State.CANCELLED))
            assert await asyncio.wait([changed], timeout=1.5) == (set(), {changed})
            waiting = await harness.until(import_id, lambda found: found.error is not None)
            assert waiting.error is not None
            assert (waiting.state, waiting.error.code) == (State.CANCELLING, FailureCode.CLEANUP_PENDING)
            assert "ALLOW_CONNECTIONS" in waiting.error.hint
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        await changed
        assert (await harness.get(import_id)).error is None
    await assert_all_gone(database_url)


async def test_the_attempt_of_a_cancelled_import_keeps_its_own_failure(
    tmp_path: Path, database_url: str, postgres: str
) -> None:
    """The database is unavailable when the loader ends, so the cleanup records the failure later."""
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        import_id = await harness.submit("https://example.org/fails_when_stopped")
        await harness.until_phase(import_id, "loading")
        name = database_url.rpartition("/")[2].partition("?")[0]
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            await harness.supervisor.cancel(import_id)
            pending = await harness.until(import_id, lambda found: found.error is not None)
            assert pending.error is not None
            assert (pending.state, pending.error.code) == (State.CANCELLING, FailureCode.CLEANUP_PENDING)
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        found = await harness.until_state(import_id, State.CANCELLED)
        assert (found.error, found.receipt) == (None, None)
        (attempt,) = await harness.attempts(import_id)
        assert attempt.error is not None
        assert attempt.error.code is FailureCode.SOURCE_UNREACHABLE
        log = await harness.store.attempt_log(import_id, attempt.number)
        assert (attempt.exit_code, log) == (66, "that is all\n")


@pytest.mark.parametrize("is_seen", [True, False], ids=["its end was seen", "nobody saw its end"])
async def test_a_cancelled_import_that_was_published_shows_no_failure(
    is_seen: bool, tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url) as harness:
        import_id = await harness.submit(server.url)
        receipt = await harness.receipt(import_id)
    path = tmp_path / "importer.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE import SET state = 'cancelling', receipt = NULL, finished_at = NULL")
        connection.execute("UPDATE attempt SET finished_at = NULL, exit_code = NULL, log = ''")
    store = await Store.open(path)
    cleanup = Cleanup(store, LedgerReader(database_url), Loaders(database_url), UnhandledErrors())
    before = await store.get(import_id)
    assert before is not None
    cleanup.finish_cancel(import_id, LoaderExit(-9, None, "the log") if is_seen else None)
    found = await store.wait_for_change(import_id, before.version, DEADLINE_SECONDS)
    assert found is not None
    assert (found.state, found.error, found.receipt) == (State.SUCCEEDED, None, receipt)
    (attempt,) = await store.attempts(import_id)
    expected = (-9, "the log") if is_seen else (None, "")
    log = await store.attempt_log(import_id, attempt.number)
    assert (attempt.exit_code, log, attempt.error) == (*expected, None)
    await cleanup.stop(DEADLINE_SECONDS)
    await store.close()


@pytest.mark.parametrize("how", ["cancelled", "killed", "cancelled and killed"])
async def test_the_ledger_decides_once_the_commit_has_started(
    how: str, harness: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await harness.submit(server.url)
    await harness.until_part()
    with psycopg.connect(harness.database_url) as connection:
        connection.execute(SLOW_COMMIT.encode())
    resume_serving(server)
    await until("the commit", lambda: query(harness.database_url, COMMITS) != [])
    if "cancelled" in how:
        found = await harness.supervisor.cancel(import_id)
        assert found is not None
        assert found.state is State.CANCELLING
    if "killed" in how:
        loader().kill()
    await harness.until(import_id, lambda found: found.state in FINISHED)
    found = await harness.get(import_id)
    published = {None: State.CANCELLED, SAMPLE_ROWS: State.SUCCEEDED}
    assert found.state is published[row_count(harness.database_url) or None]
    assert (
        found.state is State.SUCCEEDED or "killed" in how
    )  # the backend of a killed loader may abort its commit
    await assert_all_gone(harness.database_url)


async def test_imports_cancelled_at_any_moment_end_as_the_ledger_says(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    """Cancel imports after increasing delays: some before their publish, some after it."""
    import_ids = [await harness.submit(server.url) for _ in range(5)]
    for number, import_id in enumerate(import_ids):
        await harness.until(import_id, lambda found: found.attempt_count or found.state in FINISHED)
        await asyncio.sleep(0.3 * number)  # the test varies the moment
        await harness.supervisor.cancel(import_id)
    states = [
        (await harness.until(import_id, lambda found: found.state in FINISHED)).state
        for import_id in import_ids
    ]
    assert set(states) <= {State.SUCCEEDED, State.CANCELLED}
    assert row_count(harness.database_url) == SAMPLE_ROWS * states.count(State.SUCCEEDED)
    await assert_all_gone(harness.database_url)


async def test_a_loader_that_ignores_sigterm_is_killed_after_the_grace(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING, grace_seconds=1) as harness:
        import_id = await harness.submit("https://example.org/ignores_signals")
        await harness.until_phase(import_id, "loading")
        await harness.supervisor.cancel(import_id)
        await harness.until_state(import_id, State.CANCELLED)
        assert await harness.exit_codes(import_id) == [-9]


async def test_hundreds_of_queued_imports_are_cancelled_without_a_loader(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING, slots=1) as harness:
        running = await harness.submit("https://example.org/waits")
        await harness.until_phase(running, "loading")
        queued = [await harness.submit("https://example.org/fails") for _ in range(300)]
        await asyncio.gather(*(harness.supervisor.cancel(import_id) for import_id in queued))
        assert (await harness.store.counts())[State.CANCELLED] == 300
        assert len(children()) == 1
