"""Recovery after a stop or a crash of the service: every import resumes."""

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
from tests.support.supervision import (
    LATE_RETRIES,
    assert_all_gone,
    stall,
    supervising,
    supervisor_process,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_the_next_service_resumes_all_imports_of_a_killed_one(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """Its loaders suspend when their stdin ends."""
    stall(server)
    async with supervising(tmp_path, database_url, slots=1) as harness:
        import_ids = [await harness.submit(server.url) for _ in range(3)]
    with supervisor_process(tmp_path, database_url) as process:
        await until("two loaders", lambda: len(psutil.Process(process.pid).children()) == 2 or None)
        await until("a part", lambda: committed_rows(database_url))
        loaders = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, loaders, timeout=30)
        assert alive == []
    resume_serving(server)
    async with supervising(tmp_path, database_url) as harness:
        receipts = [await harness.receipt(import_id) for import_id in import_ids]
        assert max(receipt.attempts for receipt in receipts) > 1
        *_, unseen, last = await harness.attempts(import_ids[0])
        assert (unseen.exit_code, last.exit_code, last.error) == (None, 0, None)
        assert unseen.error == SERVICE_ENDED  # its end was not seen
        assert (await harness.get(import_ids[0])).retry_count == 0
    assert row_count(database_url) == 3 * SAMPLE_ROWS
    await assert_all_gone(database_url)


async def test_imports_in_every_state_are_resumed_at_startup(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url) as harness:
        published = await harness.submit(server.url)
        removed = await harness.submit(server.url)
        await harness.receipt(published)
        await harness.receipt(removed)
        stall(server)
        cancelled = await harness.submit(server.url)
        running = await harness.submit(server.url)
        for import_id in (cancelled, running):
            await harness.until_phase(import_id, "loading")
        await harness.supervisor.stop()
        # The states that a killed service leaves.
        await harness.store.claim()
        await harness.store.claim()
        assert (await harness.store.request_cancel(cancelled)) is not None
        assert (await harness.store.request_removal(removed, drops_rows=True)) is not None
        queued = await harness.submit(server.url)
    resume_serving(server)
    async with supervising(tmp_path, database_url) as harness:
        await harness.until_gone(removed)
        await harness.until_state(cancelled, State.CANCELLED)
        assert (await harness.receipt(running)).attempts == 2
        await harness.receipt(queued)
        assert (await harness.get(published)).state is State.SUCCEEDED
    assert row_count(database_url) == 3 * SAMPLE_ROWS
    await assert_all_gone(database_url)


async def test_an_import_published_unnoticed_succeeds_at_the_next_start(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The service is killed between the ledger's commit and its own."""
    async with supervising(tmp_path, database_url, retry_policy=LATE_RETRIES) as harness:
        import_id = await harness.submit(server.url)
        receipt = await harness.receipt(import_id)
    with contextlib.closing(
        sqlite3.connect(tmp_path / "importer.sqlite", isolation_level=None)
    ) as connection:
        connection.execute("UPDATE import SET state = 'running', receipt = NULL, finished_at = NULL")
        connection.execute("UPDATE attempt SET finished_at = NULL, exit_code = NULL")
    async with supervising(tmp_path, database_url) as harness:
        assert await harness.receipt(import_id) == receipt
    assert row_count(database_url) == SAMPLE_ROWS
