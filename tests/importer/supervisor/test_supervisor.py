"""The supervisor with real loaders, from the queue to the end of an import."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
from pathlib import Path
from uuid import UUID

import pytest

from importer.model import Import, State
from importer.supervisor.loaders import LOADER
from loader.contract import FailureCode, Phase, Progress
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import Fault, HttpServer
from tests.support.loader_process import row_count
from tests.support.mid_load import resume_serving
from tests.support.supervision import (
    MISBEHAVING,
    SupervisorHarness,
    assert_all_gone,
    children,
    loader,
    supervising,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_an_import_is_run_to_its_receipt(tmp_path: Path, database_url: str, server: HttpServer) -> None:
    async with supervising(tmp_path, database_url, command=LOADER) as harness:
        import_id = await harness.submit(server.url)
        receipt = await harness.receipt(import_id)
        assert receipt.import_id == str(import_id)
        assert receipt.rows_published == row_count(database_url) == SAMPLE_ROWS
        found = await harness.get(import_id)
        assert found.progress is not None
        assert found.progress.rows_loaded == SAMPLE_ROWS
        assert (found.phase, found.error, found.attempt_count) == (None, None, 1)
        assert await harness.exit_codes(import_id) == [0]
    await assert_all_gone(database_url)


async def test_the_last_progress_is_recorded_while_an_earlier_report_is_written(
    tmp_path: Path, database_url: str, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervising(tmp_path, database_url, command=LOADER) as harness:
        report = harness.store.report

        async def report_slowly(import_id: UUID, phase: Phase, progress: Progress) -> Import | None:
            if phase == "loading":
                await until("the loader's end", lambda: not children())
            return await report(import_id, phase, progress)

        monkeypatch.setattr(harness.store, "report", report_slowly)
        import_id = await harness.submit(server.url)
        await harness.receipt(import_id)
        found = await harness.get(import_id)
        assert found.progress is not None
        assert found.progress.rows_loaded == SAMPLE_ROWS


async def test_a_bad_file_is_not_retried(harness: SupervisorHarness, server: HttpServer) -> None:
    server.content = b"<html>not found</html>\n"
    import_id = await harness.submit(server.url)
    found = await harness.until_state(import_id, State.FAILED)
    assert found.error is not None
    assert found.error.code is FailureCode.NOT_CSV
    (attempt,) = await harness.attempts(import_id)
    assert (attempt.exit_code, attempt.error) == (65, found.error)


async def test_an_invalid_source_fails_and_the_queue_continues(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await harness.submit("http://[")
    following = await harness.submit(server.url)
    found = await harness.until_state(import_id, State.FAILED)
    assert found.error is not None
    await harness.receipt(following)


async def test_an_address_that_is_not_allowed_is_refused(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await harness.submit(server.url.replace("localhost", "127.0.0.1"))
    found = await harness.until_state(import_id, State.FAILED)
    assert found.error is not None
    assert server.connection_count == 0


async def test_a_failed_import_succeeds_after_a_retry_request(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    server.rule = lambda _: Fault(status=404)
    import_id = await harness.submit(server.url)
    await harness.until_state(import_id, State.FAILED)
    resume_serving(server)
    assert await harness.store.retry(import_id) is not None
    harness.supervisor.wake()
    await harness.until(import_id, lambda found: found.state is not State.FAILED)
    assert (await harness.receipt(import_id)).rows_published == SAMPLE_ROWS
    assert await harness.exit_codes(import_id) == [66, 0]


async def test_a_loader_dumps_no_core(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        import_id = await harness.submit("https://example.org/prints_its_environment")
        await harness.until_state(import_id, State.FAILED)
        log = await harness.store.attempt_log(import_id, 1)
        assert json.loads(log or "")["core"] == 0


@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.long)])
async def test_loaders_never_exceed_the_slots_and_none_is_left(
    count: int, tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING, slots=3) as harness:
        import_ids = [await harness.submit("https://example.org/fails") for _ in range(count)]
        most = 0
        while (await harness.store.counts())[State.FAILED] < len(import_ids):
            most = max(most, len(children()))
            await asyncio.sleep(0.01)
        assert 1 <= most <= 3
        starts = [(await harness.attempts(import_id))[0].started_at for import_id in import_ids]
        assert starts == sorted(starts)  # first come, first served
        await until("all to be reaped", lambda: children() == [])


async def test_an_outcome_is_recorded_once_the_control_db_can_be_written(
    tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        import_id = await harness.submit("https://example.org/waits")
        await harness.until_phase(import_id, "loading")
        with contextlib.closing(sqlite3.connect(tmp_path / "importer.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            process = loader()
            process.kill()
            await until("its end", lambda: not process.is_running())
            await asyncio.sleep(3)  # longer than SQLite itself waits for a lock
            other.execute("ROLLBACK")
        await harness.until(import_id, lambda found: found.attempt_count == 2)
        assert (await harness.exit_codes(import_id))[0] == -signal.SIGKILL


async def test_an_unhandled_error_of_one_import_does_not_block_the_others(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING, slots=1) as harness:
        with contextlib.closing(sqlite3.connect(tmp_path / "importer.sqlite")) as connection:
            connection.execute(
                "CREATE TRIGGER defect BEFORE UPDATE ON import WHEN NEW.state = 'failed' AND NEW.sequence = 1"
                " BEGIN SELECT raise(ABORT, 'for the test'); END"
            )
        await harness.submit("https://example.org/fails")
        following = await harness.submit("https://example.org/fails")
        await harness.until_state(following, State.FAILED)
    assert "for the test" in capsys.readouterr().out
