"""Stops of the supervisor: loaders keep what is committed, and the stop takes bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
import structlog

from importer.model import State
from importer.store.store import Store
from importer.supervisor.cleanup import Cleanup
from importer.supervisor.ledger import LedgerReader
from importer.supervisor.loaders import Loaders
from importer.supervisor.reconciler import Reconciler
from importer.tasks import UnhandledErrors
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.live_service import LiveService
from tests.support.loader_process import committed_rows, row_count, wait_until_disconnected
from tests.support.mid_load import resume_serving, stall_after_probe
from tests.support.supervision import (
    DEADLINE_SECONDS,
    MISBEHAVING,
    assert_all_gone,
    stall,
    supervising,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_stop_suspends_loaders_and_the_next_service_resumes_them(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    stall(server)
    async with supervising(tmp_path, database_url, slots=1) as harness:
        import_id = await harness.submit(server.url)
        waiting = await harness.submit(server.url)
        rows = await harness.until_part()
    wait_until_disconnected(database_url)
    assert committed_rows(database_url) >= rows
    resume_serving(server)
    async with supervising(tmp_path, database_url) as harness:
        assert (await harness.receipt(import_id)).attempts == 2
        assert (await harness.receipt(waiting)).attempts == 1
        first, second = await harness.attempts(import_id)
        assert (first.exit_code, first.error) == (75, None)
        assert second.exit_code == 0
        assert (await harness.get(import_id)).retry_count == 0
    assert row_count(database_url) == 2 * SAMPLE_ROWS
    await assert_all_gone(database_url)


async def test_a_loader_that_ignores_signals_does_not_delay_a_stop(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING, grace_seconds=1) as harness:
        import_id = await harness.submit("https://example.org/ignores_signals")
        await harness.until_phase(import_id, "loading")
        async with asyncio.timeout(5):
            await harness.supervisor.stop()
        found = await harness.get(import_id)
        assert (found.state, found.retry_count, found.error) == (State.QUEUED, 0, None)
        assert await harness.exit_codes(import_id) == [-9]


async def test_a_stop_is_completed_even_if_it_is_cancelled(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        import_id = await harness.submit("https://example.org/waits")
        await harness.until_phase(import_id, "loading")
        stopping = asyncio.create_task(harness.supervisor.stop())
        for _ in range(3):
            await asyncio.sleep(0)
            stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert (await harness.get(import_id)).state is State.QUEUED
        assert await harness.exit_codes(import_id) == [75]


@pytest.mark.parametrize("turns", range(5))
async def test_a_reconciler_woken_as_it_is_cancelled_ends(turns: int, tmp_path: Path) -> None:
    """As when an import fails at that moment."""
    nowhere = "postgresql://me@127.0.0.1:1/none"
    ledger = LedgerReader(nowhere)
    store = await Store.open(tmp_path / "importer.sqlite")
    reconciler = Reconciler(
        store, ledger, Cleanup(store, ledger, Loaders(nowhere), UnhandledErrors()), history_days=1
    )
    with structlog.testing.capture_logs() as said:
        work = asyncio.create_task(reconciler.run())
        await until("its first look", lambda: said)
    reconciler.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    work.cancel()
    ended, _ = await asyncio.wait([work], timeout=DEADLINE_SECONDS)
    assert ended
    await store.close()


def test_a_request_during_the_stop_is_answered_or_cut_off_without_a_500(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    server.rule = stall_after_probe
    answers: set[int] = set()
    with LiveService(tmp_path, database_url) as live:
        live.until_phase(live.submit(server.url)["id"], "loading")
        askers = [threading.Thread(target=come_until_it_stops, args=(live, answers)) for _ in range(4)]
        for asker in askers:
            asker.start()
        live.process.terminate()
        for asker in askers:
            asker.join()
    assert answers <= {200}


def come_until_it_stops(live: LiveService, answers: set[int]) -> None:
    """Connect until the service stops listening, then send requests on the last connections until they close."""
    base = live.client.base_url
    with contextlib.ExitStack() as stack:
        came: deque[HTTPConnection] = deque(maxlen=50)
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                came.append(stack.enter_context(contextlib.closing(HTTPConnection(base.host, base.port))))
                came[-1].connect()
                if len(came) == came.maxlen:
                    came.popleft().close()
        while came:
            connection = came.popleft()
            connection.auto_open = False
            with contextlib.suppress(HTTPException, OSError):
                connection.request("GET", "/imports")
                with connection.getresponse() as answer:
                    answer.read()
                    answers.add(answer.status)
                came.append(connection)
