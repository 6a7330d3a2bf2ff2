"""Retries after loaders that are killed, hang or fail."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from importer.model import State
from importer.supervisor.limits import SupervisorLimits
from importer.supervisor.outcome import AttemptRetryPolicy
from loader.contract import FailureCode
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import committed_rows, row_count
from tests.support.mid_load import resume_serving
from tests.support.supervision import (
    MISBEHAVING,
    SupervisorHarness,
    assert_all_gone,
    loader,
    stall,
    supervising,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_after_a_killed_loader_the_next_one_resumes(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await harness.submit(server.url)
    await harness.until_part()
    loader().kill()
    resume_serving(server)
    receipt = await harness.receipt(import_id)
    assert receipt.attempts == 2
    assert receipt.rows_published == row_count(harness.database_url) == SAMPLE_ROWS
    first, second = await harness.attempts(import_id)
    assert (first.exit_code, second.exit_code) == (-9, 0)
    assert first.error is not None
    assert first.error.retryable
    await assert_all_gone(harness.database_url)


async def test_a_silent_loader_is_killed_and_the_next_one_resumes(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, limits=SupervisorLimits(silence_seconds=5)) as harness:
        stall(server)
        import_id = await harness.submit(server.url)
        await harness.until_part()
        loader().suspend()
        resume_serving(server)
        assert (await harness.receipt(import_id)).attempts == 2
        first, _ = await harness.attempts(import_id)
        assert first.error is not None
        assert "no message" in first.error.message


async def test_after_a_foreign_signal_the_next_loader_resumes(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    stall(server)
    import_id = await harness.submit(server.url)
    await harness.until_part()
    loader().terminate()
    resume_serving(server)
    await harness.receipt(import_id)
    assert await harness.exit_codes(import_id) == [143, 0]


async def test_attempts_without_progress_are_counted_and_the_last_failure_is_final(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        import_id = await harness.submit("https://example.org/fails_retryably")
        found = await harness.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.SOURCE_UNREACHABLE
        assert await harness.exit_codes(import_id) == [66, 66, 66]


async def test_a_loader_that_blames_a_working_database_fails_in_the_end(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        import_id = await harness.submit("https://example.org/loses_its_database")
        found = await harness.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.DATABASE_UNAVAILABLE
        assert await harness.exit_codes(import_id) == [69, 69, 69]


async def test_attempts_with_table_locked_have_their_own_limit(tmp_path: Path, database_url: str) -> None:
    retry_policy = AttemptRetryPolicy(attempts=2, first_delay_seconds=0.01, locked_attempts=5)
    async with supervising(tmp_path, database_url, command=MISBEHAVING, retry_policy=retry_policy) as harness:
        import_id = await harness.submit("https://example.org/finds_trips_locked")
        found = await harness.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.TABLE_LOCKED
        assert await harness.exit_codes(import_id) == [75] * 5
        assert (found.retry_count, found.keeps_staging) == (0, True)
        await harness.store.retry(import_id)
        assert (await harness.get(import_id)).locked_count == 0


async def test_progress_resets_the_count_of_failures(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The policy allows one failure in a row; the second loader commits more than the first."""
    async with supervising(tmp_path, database_url, retry_policy=AttemptRetryPolicy(2, 0.05)) as harness:
        stall(server, at=700_000)
        import_id = await harness.submit(server.url)
        await harness.until_part()
        loader().kill()
        await harness.until(import_id, lambda found: found.attempt_count == 2)
        rows = committed_rows(database_url)  # the first loader may have committed more than one part
        stall(server)
        server.drop_connections()
        await until("another part", lambda: committed_rows(database_url) > rows)
        loader().kill()
        resume_serving(server)
        assert (await harness.receipt(import_id)).attempts == 3


@pytest.mark.long
async def test_progress_is_counted_from_zero_after_a_cancel(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """As above, after three parts were committed and the import was cancelled between two attempts."""
    async with supervising(tmp_path, database_url, retry_policy=AttemptRetryPolicy(2, 2.0)) as harness:
        stall(server, at=1_900_000)
        import_id = await harness.submit(server.url)
        await until("three parts", lambda: committed_rows(database_url) > 0.6 * SAMPLE_ROWS)
        loader().kill()
        await harness.until(import_id, lambda found: found.error is not None)
        await harness.supervisor.cancel(import_id)
        await harness.until_state(import_id, State.CANCELLED)
        rows = 0
        for attempt, at in ((2, 700_000), (3, 1_300_000)):
            stall(server, at=at)
            server.drop_connections()
            if attempt == 2:
                assert await harness.store.retry(import_id) is not None
                harness.supervisor.wake()
            rows = await until("another part", partial(more_rows, database_url, rows))
            loader().kill()
            await harness.until(import_id, lambda found: found.error is not None)
        resume_serving(server)
        await harness.receipt(import_id)
        assert (await harness.get(import_id)).attempt_count == 4


def more_rows(database_url: str, before: int) -> int | None:
    rows = committed_rows(database_url)
    return rows if rows > before else None
