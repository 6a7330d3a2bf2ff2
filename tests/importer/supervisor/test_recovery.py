"""The supervisor is started again after a stop or a crash: every import goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import psutil
import pytest

from importer.model import State
from importer.supervisor.outcome import SERVICE_ENDED
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import committed_rows, row_count
from tests.support.mid_load import resume_serving
from tests.support.supervision import PATIENT, assert_all_gone, stall, supervising, supervisor_process, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_killed_with_all_it_had_in_hand_its_successor_finishes_it(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The service gets SIGKILL: its loaders notice, and each import ends as if nothing had been."""
    stall(server)
    async with supervising(tmp_path, database_url, slots=1) as scene:
        import_ids = [await scene.submit(server.url) for _ in range(3)]
    with supervisor_process(tmp_path, database_url) as process:
        await until("two loaders", lambda: len(psutil.Process(process.pid).children()) == 2 or None)
        await until("a part", lambda: committed_rows(database_url))
        loaders = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, loaders, timeout=30)
        assert alive == []
    resume_serving(server)
    async with supervising(tmp_path, database_url) as scene:
        receipts = [await scene.receipt(import_id) for import_id in import_ids]
        assert max(receipt.attempts for receipt in receipts) > 1
        *_, unseen, last = await scene.attempts(import_ids[0])
        assert (unseen.exit_code, last.exit_code, last.error) == (None, 0, None)
        assert unseen.error == SERVICE_ENDED  # which nobody saw the end of
        assert (await scene.get(import_ids[0])).retry_count == 0
    assert row_count(database_url) == 3 * SAMPLE_ROWS
    await assert_all_gone(database_url)


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
    resume_serving(server)
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
    async with supervising(tmp_path, database_url, retry_policy=PATIENT) as scene:
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
