"""Loaders that are killed, hang or fail are followed by others, as long as that may help."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from importer.model import State
from importer.supervisor.limits import Limits
from importer.supervisor.outcome import RetryPolicy
from loader.contract import FailureCode
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import committed_rows, row_count
from tests.support.mid_load import resume_serving
from tests.support.supervision import (
    ODD,
    SupervisorHarness,
    assert_all_gone,
    loader,
    stall,
    supervising,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_killed_loader_is_followed_by_one_that_goes_on(
    scene: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    loader().kill()
    resume_serving(server)
    receipt = await scene.receipt(import_id)
    assert receipt.attempts == 2
    assert receipt.rows_published == row_count(scene.database_url) == SAMPLE_ROWS
    first, second = await scene.attempts(import_id)
    assert (first.exit_code, second.exit_code) == (-9, 0)
    assert first.error is not None
    assert first.error.retryable
    await assert_all_gone(scene.database_url)


async def test_a_loader_that_hangs_is_killed_and_followed(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, limits=Limits(silence_seconds=5)) as scene:
        stall(server)
        import_id = await scene.submit(server.url)
        await scene.until_part()
        loader().suspend()
        resume_serving(server)
        assert (await scene.receipt(import_id)).attempts == 2
        first, _ = await scene.attempts(import_id)
        assert first.error is not None
        assert "no message" in first.error.message


async def test_a_loader_that_somebody_signals_is_followed_by_another(
    scene: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await scene.submit(server.url)
    await scene.until_part()
    loader().terminate()
    resume_serving(server)
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


async def test_a_database_that_only_the_service_can_use_ends_its_imports(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        import_id = await scene.submit("https://example.org/loses_its_database")
        found = await scene.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.DATABASE_UNAVAILABLE
        assert await scene.exit_codes(import_id) == [69, 69, 69]


async def test_attempts_that_find_trips_locked_are_counted_by_themselves_and_end(
    tmp_path: Path, database_url: str
) -> None:
    retry_policy = RetryPolicy(attempts=2, first_delay_seconds=0.01, locked_attempts=5)
    async with supervising(tmp_path, database_url, command=ODD, retry_policy=retry_policy) as scene:
        import_id = await scene.submit("https://example.org/finds_trips_locked")
        found = await scene.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.TABLE_LOCKED
        assert await scene.exit_codes(import_id) == [75] * 5
        assert (found.retry_count, found.keeps_staging) == (0, True)
        await scene.store.retry(import_id)
        assert (await scene.get(import_id)).locked_count == 0


async def test_a_failure_after_progress_is_the_first_again(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """Two failures in a row are one too many here, but the second loader came further than the first."""
    async with supervising(tmp_path, database_url, retry_policy=RetryPolicy(2, 0.05)) as scene:
        stall(server, at=700_000)
        import_id = await scene.submit(server.url)
        rows = await scene.until_part()
        loader().kill()
        await scene.until(import_id, lambda found: found.attempt_count == 2)
        stall(server)
        server.drop_connections()
        await until("another part", lambda: committed_rows(database_url) > rows)
        loader().kill()
        resume_serving(server)
        assert (await scene.receipt(import_id)).attempts == 3


@pytest.mark.long
async def test_what_a_cancel_took_back_is_no_mark_for_the_attempts_after_it(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """As above; but before that three parts were committed, and the import was cancelled between two attempts."""
    async with supervising(tmp_path, database_url, retry_policy=RetryPolicy(2, 2.0)) as scene:
        stall(server, at=1_900_000)
        import_id = await scene.submit(server.url)
        await until("three parts", lambda: committed_rows(database_url) > 0.6 * SAMPLE_ROWS)
        loader().kill()
        await scene.until(import_id, lambda found: found.error is not None)
        await scene.supervisor.cancel(import_id)
        await scene.until_state(import_id, State.CANCELLED)
        rows = 0
        for attempt, at in ((2, 700_000), (3, 1_300_000)):
            stall(server, at=at)
            server.drop_connections()
            if attempt == 2:
                assert await scene.store.retry(import_id) is not None
                scene.supervisor.wake()
            rows = await until("another part", partial(more_rows, database_url, rows))
            loader().kill()
            await scene.until(import_id, lambda found: found.error is not None)
        resume_serving(server)
        await scene.receipt(import_id)
        assert (await scene.get(import_id)).attempt_count == 4


def more_rows(database_url: str, before: int) -> int | None:
    rows = committed_rows(database_url)
    return rows if rows > before else None
