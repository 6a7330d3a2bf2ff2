"""Imports in the hands of the supervisor, with real loaders, from the queue to their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
from pathlib import Path

import pytest

from importer.model import State
from importer.supervisor.loaders import LOADER
from loader.contract import FailureCode
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import Fault, HttpServer
from tests.support.loader_process import row_count
from tests.support.mid_load import resume_serving
from tests.support.supervision import (
    ODD,
    SupervisorHarness,
    assert_all_gone,
    children,
    loader,
    supervising,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


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


async def test_a_bad_file_is_not_tried_again(scene: SupervisorHarness, server: HttpServer) -> None:
    server.content = b"<html>not found</html>\n"
    import_id = await scene.submit(server.url)
    found = await scene.until_state(import_id, State.FAILED)
    assert found.error is not None
    assert found.error.code is FailureCode.NOT_CSV
    (attempt,) = await scene.attempts(import_id)
    assert (attempt.exit_code, attempt.error) == (65, found.error)


async def test_a_source_that_is_none_fails_and_the_queue_goes_on(
    scene: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await scene.submit("http://[")
    following = await scene.submit(server.url)
    found = await scene.until_state(import_id, State.FAILED)
    assert found.error is not None
    await scene.receipt(following)


async def test_an_address_that_nobody_allowed_is_refused(
    scene: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await scene.submit(server.url.replace("localhost", "127.0.0.1"))
    found = await scene.until_state(import_id, State.FAILED)
    assert found.error is not None
    assert server.connection_count == 0


async def test_a_failed_import_can_be_retried_by_hand(scene: SupervisorHarness, server: HttpServer) -> None:
    server.rule = lambda _: Fault(status=404)
    import_id = await scene.submit(server.url)
    await scene.until_state(import_id, State.FAILED)
    resume_serving(server)
    assert await scene.store.retry(import_id) is not None
    scene.supervisor.wake()
    await scene.until(import_id, lambda found: found.state is not State.FAILED)
    assert (await scene.receipt(import_id)).rows_published == SAMPLE_ROWS
    assert await scene.exit_codes(import_id) == [66, 0]


async def test_a_loader_dumps_no_core_which_would_hold_its_job(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        import_id = await scene.submit("https://example.org/tells_its_surroundings")
        await scene.until_state(import_id, State.FAILED)
        (attempt,) = await scene.attempts(import_id)
        assert json.loads(attempt.log)["core"] == 0


@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.long)])
async def test_after_many_imports_no_process_is_left_and_never_were_there_more_than_slots(
    count: int, tmp_path: Path, database_url: str
) -> None:
    async with supervising(tmp_path, database_url, command=ODD, slots=3) as scene:
        import_ids = [await scene.submit("https://example.org/fails") for _ in range(count)]
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
