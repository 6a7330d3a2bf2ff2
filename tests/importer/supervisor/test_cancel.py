"""Cancelled in any state and at any moment: nothing is left, or all of it was published, and it is said which."""

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
    ODD,
    PATIENT,
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


async def test_cancelled_while_it_waits_in_the_queue(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    stall(server)
    async with supervising(tmp_path, database_url, slots=1) as scene:
        running = await scene.submit(server.url)
        queued = await scene.submit(server.url)
        await scene.until_phase(running, "loading")
        found = await scene.supervisor.cancel(queued)
        assert found is not None
        assert found.state is State.CANCELLED
        assert await scene.supervisor.cancel(queued) is None  # it has ended
        assert (await scene.get(running)).state is State.RUNNING
        assert await scene.attempts(queued) == []


async def test_cancelled_fifty_times_while_the_source_stalls(
    scene: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    answers = await asyncio.gather(*(scene.supervisor.cancel(import_id) for _ in range(50)))
    assert {answer.state for answer in answers if answer is not None} == {State.CANCELLING}
    await scene.until_state(import_id, State.CANCELLED)
    assert await scene.exit_codes(import_id) == [143]
    await assert_all_gone(scene.database_url)
    assert row_count(scene.database_url) == 0


async def test_cancelled_while_its_loader_starts(scene: SupervisorHarness, server: HttpServer) -> None:
    import_id = await scene.submit(server.url)
    await scene.until_state(import_id, State.RUNNING)
    await scene.supervisor.cancel(import_id)
    await scene.until_state(import_id, State.CANCELLED)
    await assert_all_gone(scene.database_url)


async def test_cancelled_while_it_waits_to_publish(scene: SupervisorHarness, server: HttpServer) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    with holding(scene.database_url, "LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE"):
        resume_serving(server)
        await scene.until_phase(import_id, "publishing")
        await until("a wait for trips", lambda: waits_for_lock(scene.database_url))
        await scene.supervisor.cancel(import_id)
        await scene.until_state(import_id, State.CANCELLED)
    assert row_count(scene.database_url) == 0
    await assert_all_gone(scene.database_url)


async def test_cancelled_between_two_attempts(tmp_path: Path, database_url: str, server: HttpServer) -> None:
    async with supervising(tmp_path, database_url, retry_policy=PATIENT) as scene:
        import_id = await killed_in_mid_load(scene, server)
        found = await scene.supervisor.cancel(import_id)
        assert found is not None
        assert found.state is State.CANCELLING
        await scene.until_state(import_id, State.CANCELLED)
        assert await scene.exit_codes(import_id) == [-9]
    await assert_all_gone(database_url)


async def killed_in_mid_load(scene: SupervisorHarness, server: HttpServer) -> UUID:
    """Submit an import, kill its loader when some of it is committed, and wait for what becomes of it."""
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    loader().kill()
    found = await scene.until(import_id, lambda found: found.error is not None)
    assert found.error is not None
    assert "SIGKILL" in found.error.message
    return import_id


async def test_cancelled_while_the_database_is_down_it_is_so_only_when_all_is_gone(
    tmp_path: Path, database_url: str, postgres: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, retry_policy=PATIENT) as scene:
        import_id = await killed_in_mid_load(scene, server)
        name = database_url.rpartition("/")[2].partition("?")[0]
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            await scene.supervisor.cancel(import_id)
            changed = asyncio.create_task(scene.until_state(import_id, State.CANCELLED))
            assert await asyncio.wait([changed], timeout=1.5) == (set(), {changed})
            waiting = await scene.until(import_id, lambda found: found.error is not None)
            assert waiting.error is not None
            assert (waiting.state, waiting.error.code) == (State.CANCELLING, FailureCode.CLEANUP_PENDING)
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        await changed
        assert (await scene.get(import_id)).error is None
    await assert_all_gone(database_url)


async def test_cancelled_after_its_loader_has_failed_the_attempt_tells_that_failure(
    tmp_path: Path, database_url: str, postgres: str
) -> None:
    """Where the database could not be asked at its end: the clean-up writes it down later."""
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        import_id = await scene.submit("https://example.org/fails_when_stopped")
        await scene.until_phase(import_id, "loading")
        name = database_url.rpartition("/")[2].partition("?")[0]
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            await scene.supervisor.cancel(import_id)
            pending = await scene.until(import_id, lambda found: found.error is not None)
            assert pending.error is not None
            assert (pending.state, pending.error.code) == (State.CANCELLING, FailureCode.CLEANUP_PENDING)
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        found = await scene.until_state(import_id, State.CANCELLED)
        assert (found.error, found.receipt) == (None, None)
        (attempt,) = await scene.attempts(import_id)
        assert attempt.error is not None
        assert attempt.error.code is FailureCode.SOURCE_UNREACHABLE
        assert (attempt.exit_code, attempt.log) == (66, "that is all\n")


@pytest.mark.parametrize("is_seen", [True, False], ids=["its end was seen", "nobody saw its end"])
async def test_cancelled_and_found_published_the_attempt_tells_no_failure(
    is_seen: bool, tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url) as scene:
        import_id = await scene.submit(server.url)
        receipt = await scene.receipt(import_id)
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
    assert (attempt.exit_code, attempt.log, attempt.error) == (*expected, None)
    await cleanup.stop(DEADLINE_SECONDS)
    await store.close()


@pytest.mark.parametrize("how", ["cancelled", "killed", "cancelled and killed"])
async def test_once_its_commit_has_begun_the_ledger_decides(
    how: str, scene: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    with psycopg.connect(scene.database_url) as connection:
        connection.execute(SLOW_COMMIT.encode())
    resume_serving(server)
    await until("the commit", lambda: query(scene.database_url, COMMITS) != [])
    if "cancelled" in how:
        found = await scene.supervisor.cancel(import_id)
        assert found is not None
        assert found.state is State.CANCELLING
    if "killed" in how:
        loader().kill()
    await scene.until(import_id, lambda found: found.state in FINISHED)
    found = await scene.get(import_id)
    published = {None: State.CANCELLED, SAMPLE_ROWS: State.SUCCEEDED}
    assert found.state is published[row_count(scene.database_url) or None]
    assert (
        found.state is State.SUCCEEDED or "killed" in how
    )  # a killed loader's backend may give up its commit
    await assert_all_gone(scene.database_url)


async def test_cancelled_at_any_moment_it_ends_as_the_ledger_says(
    scene: SupervisorHarness, server: HttpServer
) -> None:
    """Imports two at a time, each cancelled a little later: some before their publish, some after it."""
    import_ids = [await scene.submit(server.url) for _ in range(5)]
    for number, import_id in enumerate(import_ids):
        await scene.until(import_id, lambda found: found.attempt_count or found.state in FINISHED)
        await asyncio.sleep(0.3 * number)  # the moment is what is tried here
        await scene.supervisor.cancel(import_id)
    states = [
        (await scene.until(import_id, lambda found: found.state in FINISHED)).state
        for import_id in import_ids
    ]
    assert set(states) <= {State.SUCCEEDED, State.CANCELLED}
    assert row_count(scene.database_url) == SAMPLE_ROWS * states.count(State.SUCCEEDED)
    await assert_all_gone(scene.database_url)


async def test_a_loader_that_ignores_sigterm_is_killed_after_the_grace(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=ODD, grace_seconds=1) as scene:
        import_id = await scene.submit("https://example.org/is_deaf")
        await scene.until_phase(import_id, "loading")
        await scene.supervisor.cancel(import_id)
        await scene.until_state(import_id, State.CANCELLED)
        assert await scene.exit_codes(import_id) == [-9]


async def test_hundreds_that_wait_are_cancelled_and_no_loader_is_started_for_them(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=ODD, slots=1) as scene:
        running = await scene.submit("https://example.org/waits")
        await scene.until_phase(running, "loading")
        queued = [await scene.submit("https://example.org/fails") for _ in range(300)]
        await asyncio.gather(*(scene.supervisor.cancel(import_id) for import_id in queued))
        assert (await scene.store.counts())[State.CANCELLED] == 300
        assert len(children()) == 1
