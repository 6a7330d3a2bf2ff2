"""Imports in the hands of the supervisor, with real loaders: whatever is cancelled, killed or restarted, they all end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
import pytest
from conftest import SAMPLE_ROWS
from http_server import Fault, HttpServer, Request
from loader_process import (
    assert_nothing_is_left,
    committed_rows,
    leftovers,
    query,
    row_count,
    wait_until_disconnected,
)
from supervision import DEADLINE_SECONDS, ODD, PATIENT, TESTS, Scene, children, loader, supervising, until

from importer import janitor, loader_process
from importer.imports import FINISHED, State
from importer.loader_process import LOADER
from importer.outcome import Retries
from loader.wire import FailureCode

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

# From here on the server sends nothing: parts before it are committed, and one is in the making.
STALL_BYTES = 1_500_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def scene(tmp_path: Path, database_url: str) -> AsyncGenerator[Scene]:
    """A supervisor of two slots, which tries again at once."""
    async with supervising(tmp_path, database_url) as scene:
        yield scene


def stall(server: HttpServer, at: int = STALL_BYTES) -> None:
    """Have the server stop in the middle of the file."""

    def late(request: Request) -> Fault | None:
        return Fault(before="stall") if (request.first or 0) >= at else None

    server.rule = late


def go_on(server: HttpServer) -> None:
    """Let those who wait for a stalled answer ask again, and get it."""
    server.rule = lambda _: None
    server.drop_connections()


@contextlib.contextmanager
def holding(database_url: str, statement: str) -> Generator[psycopg.Connection]:
    """Hold what the statement locks."""
    with psycopg.connect(database_url) as connection:
        connection.execute(statement.encode())
        yield connection


async def assert_all_gone(database_url: str) -> None:
    await asyncio.to_thread(assert_nothing_is_left, database_url)


# To the end


async def test_an_import_is_followed_to_its_receipt(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, command=LOADER) as scene:
        import_id = await scene.submit(server.url)
        receipt = await scene.receipt(import_id)
        assert receipt.import_id == str(import_id)
        assert receipt.rows_published == row_count(database_url) == SAMPLE_ROWS
        found = await scene.get(import_id)
        assert found.progress is not None
        assert found.progress.rows_loaded == SAMPLE_ROWS
        assert (found.phase, found.error, found.attempt_count) == (None, None, 1)
        assert await scene.exit_codes(import_id) == [0]
    await assert_all_gone(database_url)


async def test_a_bad_file_is_not_tried_again(scene: Scene, server: HttpServer) -> None:
    server.content = b"<html>not found</html>\n"
    import_id = await scene.submit(server.url)
    found = await scene.until_state(import_id, State.FAILED)
    assert found.error is not None
    assert found.error.code is FailureCode.NOT_CSV
    (attempt,) = await scene.attempts(import_id)
    assert (attempt.exit_code, attempt.error) == (65, found.error)


async def test_a_source_that_is_none_fails_and_the_queue_goes_on(scene: Scene, server: HttpServer) -> None:
    import_id = await scene.submit("http://[")
    following = await scene.submit(server.url)
    found = await scene.until_state(import_id, State.FAILED)
    assert found.error is not None
    await scene.receipt(following)


async def test_an_address_that_nobody_allowed_is_refused(scene: Scene, server: HttpServer) -> None:
    import_id = await scene.submit(server.url.replace("localhost", "127.0.0.1"))
    found = await scene.until_state(import_id, State.FAILED)
    assert found.error is not None
    assert server.connection_count == 0


async def test_a_failed_import_can_be_retried_by_hand(scene: Scene, server: HttpServer) -> None:
    server.rule = lambda _: Fault(status=404)
    import_id = await scene.submit(server.url)
    await scene.until_state(import_id, State.FAILED)
    go_on(server)
    assert await scene.store.retry(import_id) is not None
    scene.supervisor.wake()
    await scene.until(import_id, lambda found: found.state is not State.FAILED)
    assert (await scene.receipt(import_id)).rows_published == SAMPLE_ROWS
    assert await scene.exit_codes(import_id) == [66, 0]


async def test_a_removed_import_is_gone_with_its_rows_once_its_readers_have_left(
    scene: Scene, server: HttpServer
) -> None:
    import_id = await scene.submit(server.url)
    await scene.receipt(import_id)
    with holding(scene.database_url, "SELECT count(*) FROM trips"):
        removing = await scene.supervisor.remove(import_id)
        assert removing is not None
        assert removing.state is State.REMOVING
        assert await scene.supervisor.remove(import_id) is None  # it is under way
        assert await scene.supervisor.cancel(import_id) is None
        await until("a wait for the reader", lambda: waits_for_lock(scene.database_url))
        assert row_count(scene.database_url) in (0, SAMPLE_ROWS)  # new readers do not wait
        assert (await scene.get(import_id)).state is State.REMOVING
    await scene.until_gone(import_id)
    assert row_count(scene.database_url) == 0
    await assert_all_gone(scene.database_url)


def waits_for_lock(database_url: str) -> bool:
    statement = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return query(database_url, statement) != []


async def test_what_never_ran_is_removed_without_a_database(tmp_path: Path, server: HttpServer) -> None:
    nowhere = "postgresql://me@127.0.0.1:1/none"
    async with supervising(tmp_path, nowhere, command=ODD, slots=1) as scene:
        await scene.submit("https://example.org/waits")
        import_id = await scene.submit(server.url)
        await scene.supervisor.cancel(import_id)
        await scene.supervisor.remove(import_id)
        await scene.until_gone(import_id)


async def test_a_loader_dumps_no_core_which_would_hold_its_job(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        import_id = await scene.submit("https://example.org/tells_its_surroundings")
        await scene.until_state(import_id, State.FAILED)
        (attempt,) = await scene.attempts(import_id)
        assert json.loads(attempt.log)["core"] == 0


# Cancelled


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


async def test_cancelled_fifty_times_while_the_source_stalls(scene: Scene, server: HttpServer) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    answers = await asyncio.gather(*(scene.supervisor.cancel(import_id) for _ in range(50)))
    assert {answer.state for answer in answers if answer is not None} == {State.CANCELLING}
    await scene.until_state(import_id, State.CANCELLED)
    assert await scene.exit_codes(import_id) == [143]
    await assert_all_gone(scene.database_url)
    assert row_count(scene.database_url) == 0


async def test_cancelled_while_its_loader_starts(scene: Scene, server: HttpServer) -> None:
    import_id = await scene.submit(server.url)
    await scene.until_state(import_id, State.RUNNING)
    await scene.supervisor.cancel(import_id)
    await scene.until_state(import_id, State.CANCELLED)
    await assert_all_gone(scene.database_url)


async def test_cancelled_while_it_waits_to_publish(scene: Scene, server: HttpServer) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    with holding(scene.database_url, "LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE"):
        go_on(server)
        await scene.until_phase(import_id, "publishing")
        await until("a wait for trips", lambda: waits_for_lock(scene.database_url))
        await scene.supervisor.cancel(import_id)
        await scene.until_state(import_id, State.CANCELLED)
    assert row_count(scene.database_url) == 0
    await assert_all_gone(scene.database_url)


async def test_cancelled_between_two_attempts(tmp_path: Path, database_url: str, server: HttpServer) -> None:
    async with supervising(tmp_path, database_url, retries=PATIENT) as scene:
        import_id = await killed_in_mid_load(scene, server)
        found = await scene.supervisor.cancel(import_id)
        assert found is not None
        assert found.state is State.CANCELLING
        await scene.until_state(import_id, State.CANCELLED)
        assert await scene.exit_codes(import_id) == [-9]
    await assert_all_gone(database_url)


async def killed_in_mid_load(scene: Scene, server: HttpServer) -> UUID:
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
    async with supervising(tmp_path, database_url, retries=PATIENT) as scene:
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


SLOW_COMMIT = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON loader.import DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.state = 'published') EXECUTE FUNCTION wait()
"""


@pytest.mark.parametrize("how", ["cancelled", "killed", "cancelled and killed"])
async def test_once_its_commit_has_begun_the_ledger_decides(
    how: str, scene: Scene, server: HttpServer
) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    with psycopg.connect(scene.database_url) as connection:
        connection.execute(SLOW_COMMIT.encode())
    go_on(server)
    commits = "SELECT FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'"
    await until("the commit", lambda: query(scene.database_url, commits) != [])
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


@pytest.mark.slow
async def test_cancelled_at_any_moment_it_ends_as_the_ledger_says(scene: Scene, server: HttpServer) -> None:
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


# Killed, stopped, signalled


async def test_a_killed_loader_is_followed_by_one_that_goes_on(scene: Scene, server: HttpServer) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    loader().kill()
    go_on(server)
    receipt = await scene.receipt(import_id)
    assert receipt.attempts == 2
    assert receipt.rows_published == row_count(scene.database_url) == SAMPLE_ROWS
    first, second = await scene.attempts(import_id)
    assert (first.exit_code, second.exit_code) == (-9, 0)
    assert first.error is not None
    assert first.error.retryable
    await assert_all_gone(scene.database_url)


@pytest.mark.slow
async def test_a_loader_that_hangs_is_killed_and_followed(
    scene: Scene, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_process, "SILENCE_SECONDS", 5)
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    loader().suspend()
    go_on(server)
    assert (await scene.receipt(import_id)).attempts == 2
    first, _ = await scene.attempts(import_id)
    assert first.error is not None
    assert "said nothing" in first.error.message


async def test_a_loader_that_somebody_signals_is_followed_by_another(
    scene: Scene, server: HttpServer
) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    loader().terminate()
    go_on(server)
    await scene.receipt(import_id)
    assert await scene.exit_codes(import_id) == [143, 0]


async def test_failures_without_progress_are_counted_and_the_last_one_stays(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        import_id = await scene.submit("https://example.org/fails_retryably")
        found = await scene.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.SOURCE_UNREACHABLE
        assert await scene.exit_codes(import_id) == [66, 66, 66]


@pytest.mark.slow
async def test_a_failure_after_progress_is_the_first_again(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """Two failures in a row are one too many here, but the second loader came further than the first."""
    async with supervising(tmp_path, database_url, retries=Retries(2, 0.05)) as scene:
        stall(server, at=700_000)
        import_id = await scene.submit(server.url)
        rows = await scene.until_part()
        loader().kill()
        await scene.until(import_id, lambda found: found.attempt_count == 2)
        stall(server)
        server.drop_connections()
        await until("another part", lambda: committed_rows(database_url) > rows)
        loader().kill()
        go_on(server)
        assert (await scene.receipt(import_id)).attempts == 3


# Left and taken up


async def test_stopped_it_suspends_and_the_next_goes_on(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    stall(server)
    async with supervising(tmp_path, database_url, slots=1) as scene:
        import_id = await scene.submit(server.url)
        waiting = await scene.submit(server.url)
        rows = await scene.until_part()
    wait_until_disconnected(database_url)
    assert committed_rows(database_url) >= rows
    go_on(server)
    async with supervising(tmp_path, database_url) as scene:
        assert (await scene.receipt(import_id)).attempts == 2
        assert (await scene.receipt(waiting)).attempts == 1
        first, second = await scene.attempts(import_id)
        assert (first.exit_code, first.error) == (75, None)
        assert second.exit_code == 0
        assert (await scene.get(import_id)).retry_count == 0
    assert row_count(database_url) == 2 * SAMPLE_ROWS
    await assert_all_gone(database_url)


async def test_stopping_takes_no_longer_for_a_loader_that_does_not_listen(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=ODD, grace_seconds=1) as scene:
        import_id = await scene.submit("https://example.org/is_deaf")
        await scene.until_phase(import_id, "loading")
        async with asyncio.timeout(5):
            await scene.supervisor.stop()
        found = await scene.get(import_id)
        assert (found.state, found.retry_count, found.error) == (State.QUEUED, 0, None)
        assert await scene.exit_codes(import_id) == [-9]


async def test_stopping_is_finished_even_if_nobody_waits_for_it(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        import_id = await scene.submit("https://example.org/waits")
        await scene.until_phase(import_id, "loading")
        stopping = asyncio.create_task(scene.supervisor.stop())
        for _ in range(3):
            await asyncio.sleep(0)
            stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert (await scene.get(import_id)).state is State.QUEUED
        assert await scene.exit_codes(import_id) == [75]


@pytest.mark.slow
async def test_killed_with_all_it_had_in_hand_its_successor_finishes_it(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The service gets SIGKILL: its loaders notice, and each import ends as if nothing had been."""
    stall(server)
    async with supervising(tmp_path, database_url, slots=1) as scene:
        import_ids = [await scene.submit(server.url) for _ in range(3)]
    with service(tmp_path, database_url) as process:
        await until("two loaders", lambda: len(psutil.Process(process.pid).children()) == 2 or None)
        await until("a part", lambda: committed_rows(database_url))
        loaders = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, loaders, timeout=30)
        assert alive == []
    go_on(server)
    async with supervising(tmp_path, database_url) as scene:
        receipts = [await scene.receipt(import_id) for import_id in import_ids]
        assert max(receipt.attempts for receipt in receipts) > 1
        assert (await scene.exit_codes(import_ids[0]))[-2:] == [None, 0]  # of the first nobody saw the end
    assert row_count(database_url) == 3 * SAMPLE_ROWS
    await assert_all_gone(database_url)


@contextlib.contextmanager
def service(folder: Path, database_url: str) -> Generator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "supervision.py"), str(folder)],
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
async def test_at_a_start_every_state_is_gone_on_with(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url) as scene:
        published = await scene.submit(server.url)
        removed = await scene.submit(server.url)
        await scene.receipt(published)
        await scene.receipt(removed)
        stall(server)
        cancelled = await scene.submit(server.url)
        running = await scene.submit(server.url)
        for import_id in (cancelled, running):
            await scene.until_phase(import_id, "loading")
        await scene.supervisor.stop()
        # As a service that is killed leaves them: running, cancelling, removing, and only asked for.
        await scene.store.claim()
        await scene.store.claim()
        assert (await scene.store.request_cancel(cancelled)) is not None
        assert (await scene.store.request_removal(removed)) is not None
        queued = await scene.submit(server.url)
    go_on(server)
    async with supervising(tmp_path, database_url) as scene:
        await scene.until_gone(removed)
        await scene.until_state(cancelled, State.CANCELLED)
        assert (await scene.receipt(running)).attempts == 2
        await scene.receipt(queued)
        assert (await scene.get(published)).state is State.SUCCEEDED
    assert row_count(database_url) == 3 * SAMPLE_ROWS
    await assert_all_gone(database_url)


async def test_an_import_that_was_published_unseen_succeeds_at_the_next_start(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The service dies between the ledger's commit and its own: the ledger's word counts."""
    async with supervising(tmp_path, database_url, retries=PATIENT) as scene:
        import_id = await scene.submit(server.url)
        receipt = await scene.receipt(import_id)
    with contextlib.closing(
        sqlite3.connect(tmp_path / "importer.sqlite", isolation_level=None)
    ) as connection:
        connection.execute("UPDATE import SET state = 'running', receipt = NULL, finished_at = NULL")
        connection.execute("UPDATE attempt SET finished_at = NULL, exit_code = NULL")
    async with supervising(tmp_path, database_url) as scene:
        assert await scene.receipt(import_id) == receipt
    assert row_count(database_url) == SAMPLE_ROWS


async def test_an_import_that_was_published_after_all_is_no_failure(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The database went away with the answer to the commit, for longer than anybody waits."""
    async with supervising(tmp_path, database_url) as scene:
        import_id = await scene.submit(server.url)
        receipt = await scene.receipt(import_id)
    error = json.dumps({"code": "loader_killed", "message": "It was.", "hint": "None.", "retryable": True})
    with contextlib.closing(
        sqlite3.connect(tmp_path / "importer.sqlite", isolation_level=None)
    ) as connection:
        connection.execute("UPDATE import SET state = 'failed', receipt = NULL, error = ?", [error])
    async with supervising(tmp_path, database_url) as scene:
        await scene.store.wait_for_change(import_id, (await scene.get(import_id)).version, DEADLINE_SECONDS)
        found = await scene.get(import_id)
        assert (found.state, found.error, found.receipt) == (State.SUCCEEDED, None, receipt)


async def test_housekeeping_that_the_database_prevents_is_done_when_it_is_back(
    tmp_path: Path, database_url: str, postgres: str, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_POSTPONED_SECONDS", 0.1)
    name = database_url.rpartition("/")[2].partition("?")[0]
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        import_id = await scene.submit(server.url)
        await scene.until_part()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        async with supervising(tmp_path, database_url, command=ODD) as scene:
            await scene.until_state(import_id, State.FAILED)
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
            await until("the end of its staging", lambda: "staging" not in leftovers(database_url))
    await assert_all_gone(database_url)


# Order


async def test_after_many_imports_no_process_is_left_and_never_were_there_more_than_slots(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=ODD, slots=3) as scene:
        import_ids = [await scene.submit("https://example.org/fails") for _ in range(60)]
        most = 0
        while (await scene.store.counts())[State.FAILED] < len(import_ids):
            most = max(most, len(children()))
            await asyncio.sleep(0.01)
        assert 1 <= most <= 3
        starts = [(await scene.attempts(import_id))[0].started_at for import_id in import_ids]
        assert starts == sorted(starts)  # first come, first served
        await until("all to be reaped", lambda: children() == [])


async def test_a_control_db_that_can_t_be_written_delays_an_outcome_and_loses_none(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        import_id = await scene.submit("https://example.org/waits")
        await scene.until_phase(import_id, "loading")
        with contextlib.closing(sqlite3.connect(tmp_path / "importer.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            process = loader()
            process.kill()
            await until("its end", lambda: not process.is_running())
            await asyncio.sleep(3)  # longer than SQLite itself waits for a lock
            other.execute("ROLLBACK")
        await scene.until(import_id, lambda found: found.attempt_count == 2)
        assert (await scene.exit_codes(import_id))[0] == -signal.SIGKILL


async def test_a_defect_in_the_middle_of_one_import_does_not_hold_up_the_others(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with supervising(tmp_path, database_url, command=ODD, slots=1) as scene:
        with contextlib.closing(sqlite3.connect(tmp_path / "importer.sqlite")) as connection:
            connection.execute(
                "CREATE TRIGGER defect BEFORE UPDATE ON import WHEN NEW.state = 'failed' AND NEW.sequence = 1"
                " BEGIN SELECT raise(ABORT, 'for the test'); END"
            )
        await scene.submit("https://example.org/fails")
        following = await scene.submit("https://example.org/fails")
        await scene.until_state(following, State.FAILED)
    assert "for the test" in capsys.readouterr().out


async def test_staging_of_an_import_that_failed_for_good_is_dropped(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The first loader is stopped with parts committed; the second ends as no loader should, and says nothing."""
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        import_id = await scene.submit(server.url)
        await scene.until_part()
    assert "staging" in leftovers(database_url)
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        found = await scene.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.INTERNAL_ERROR
        assert "Traceback" in (await scene.attempts(import_id))[-1].log
        await until("the end of its staging", lambda: "staging" not in leftovers(database_url))
    await assert_all_gone(database_url)


async def test_staging_of_a_failure_that_may_pass_is_kept_for_a_retry(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, retries=Retries(attempts=1)) as scene:
        stall(server)
        import_id = await scene.submit(server.url)
        await scene.until_part()
        loader().kill()
        await scene.until_state(import_id, State.FAILED)
        go_on(server)
        assert await scene.store.retry(import_id) is not None
        scene.supervisor.wake()
        await scene.until(import_id, lambda found: found.state is not State.FAILED)
        assert (await scene.receipt(import_id)).attempts == 2


async def test_old_records_are_deleted(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        old, new = [await scene.submit("https://example.org/fails") for _ in range(2)]
        await scene.until_state(old, State.FAILED)
        await scene.until_state(new, State.FAILED)
    with contextlib.closing(
        sqlite3.connect(tmp_path / "importer.sqlite", isolation_level=None)
    ) as connection:
        connection.execute(
            "UPDATE import SET finished_at = '2024-02-01T00:00:00.000000+00:00' WHERE id = ?", [str(old)]
        )
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        await scene.until_gone(old)
        assert await scene.store.get(new) is not None
