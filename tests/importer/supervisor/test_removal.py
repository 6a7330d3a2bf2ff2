"""Removed imports: rows and record go, whoever still reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from importer.model import State
from loader.contract import FailureCode
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import query, row_count
from tests.support.mid_load import REFERENCE
from tests.support.supervision import (
    ODD,
    SupervisorHarness,
    assert_all_gone,
    holding,
    supervising,
    until,
    waits_for_lock,
)
from tests.support.target import execute

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_removed_import_is_gone_with_its_rows_once_its_readers_have_left(
    scene: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await scene.submit(server.url)
    await scene.receipt(import_id)
    with holding(scene.database_url, "SELECT count(*) FROM trips"):
        removing = await scene.supervisor.remove(import_id)
        assert removing is not None
        assert removing.state is State.REMOVING
        again = await scene.supervisor.remove(import_id)
        assert again is not None
        assert again.state is State.REMOVING  # as it was: it is under way
        assert await scene.supervisor.cancel(import_id) is None
        await until("a wait for the reader", lambda: waits_for_lock(scene.database_url))
        assert row_count(scene.database_url) in (0, SAMPLE_ROWS)  # new readers do not wait
        assert (await scene.get(import_id)).state is State.REMOVING
    await scene.until_gone(import_id)
    assert row_count(scene.database_url) == 0
    await assert_all_gone(scene.database_url)


async def test_a_removal_that_a_foreign_key_blocks_says_so_and_completes_without_it(
    scene: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await scene.submit(server.url)
    await scene.receipt(import_id)
    execute(scene.database_url, *REFERENCE)
    await scene.supervisor.remove(import_id)
    blocked = await scene.until(import_id, lambda found: found.error)
    assert blocked.error is not None
    assert (blocked.state, blocked.error.code) == (State.REMOVING, FailureCode.CLEANUP_PENDING)
    for word in ("table_referenced", "about_a_trip", "notes", "Drop the view, function or constraint"):
        assert word in blocked.error.message
    assert await scene.supervisor.cancel(import_id) is None
    assert await scene.store.retry(import_id) is None
    again = await scene.supervisor.remove(import_id)
    assert again is not None
    assert row_count(scene.database_url) == SAMPLE_ROWS
    assert query(scene.database_url, "SELECT state FROM loader.import") == [("published",)]
    execute(scene.database_url, "DROP TABLE notes")
    await scene.until_gone(import_id)
    assert row_count(scene.database_url) == 0
    await assert_all_gone(scene.database_url)


async def test_what_never_ran_is_removed_without_a_database(tmp_path: Path, server: HttpServer) -> None:
    nowhere = "postgresql://me@127.0.0.1:1/none"
    async with supervising(tmp_path, nowhere, command=ODD, slots=1) as scene:
        await scene.submit("https://example.org/waits")
        import_id = await scene.submit(server.url)
        await scene.supervisor.cancel(import_id)
        await scene.supervisor.remove(import_id)
        await scene.until_gone(import_id)
