"""Removal of imports: rows and record, also while others read the rows."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from importer.model import State
from importer.store.rows import json_text
from loader.contract import FailureCode
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import query, row_count
from tests.support.mid_load import REFERENCE
from tests.support.store_driver import FAILURE
from tests.support.supervision import (
    MISBEHAVING,
    SupervisorHarness,
    assert_all_gone,
    holding,
    supervising,
    until,
    waits_for_lock,
)
from tests.support.target import execute

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_removed_import_and_its_rows_disappear_after_its_readers(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await harness.submit(server.url)
    await harness.receipt(import_id)
    with holding(harness.database_url, "SELECT count(*) FROM trips"):
        removing = await harness.supervisor.remove(import_id, drops_rows=True)
        assert removing is not None
        assert removing.state is State.REMOVING
        again = await harness.supervisor.remove(import_id, drops_rows=True)
        assert again is not None
        assert again.state is State.REMOVING  # unchanged: the removal runs
        assert await harness.supervisor.cancel(import_id) is None
        await until("a wait for the reader", lambda: waits_for_lock(harness.database_url))
        assert row_count(harness.database_url) in (0, SAMPLE_ROWS)  # new readers do not wait
        assert (await harness.get(import_id)).state is State.REMOVING
    await harness.until_gone(import_id)
    assert row_count(harness.database_url) == 0
    await assert_all_gone(harness.database_url)


async def test_a_removal_that_a_foreign_key_blocks_says_so_and_completes_without_it(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await harness.submit(server.url)
    await harness.receipt(import_id)
    execute(harness.database_url, *REFERENCE)
    await harness.supervisor.remove(import_id, drops_rows=True)
    blocked = await harness.until(import_id, lambda found: found.error)
    assert blocked.error is not None
    assert (blocked.state, blocked.error.code) == (State.REMOVING, FailureCode.CLEANUP_PENDING)
    for word in ("table_referenced", "about_a_trip", "notes", "Drop the view, function or constraint"):
        assert word in blocked.error.message
    assert await harness.supervisor.cancel(import_id) is None
    assert await harness.store.retry(import_id) is None
    again = await harness.supervisor.remove(import_id, drops_rows=True)
    assert again is not None
    assert row_count(harness.database_url) == SAMPLE_ROWS
    assert query(harness.database_url, "SELECT state FROM loader.import") == [("published",)]
    execute(harness.database_url, "DROP TABLE notes")
    await harness.until_gone(import_id)
    assert row_count(harness.database_url) == 0
    await assert_all_gone(harness.database_url)


async def test_a_forgotten_failure_that_is_published_keeps_its_rows(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url) as harness:
        import_id = await harness.submit(server.url)
        await harness.receipt(import_id)
        assert await harness.supervisor.remove(import_id, drops_rows=False) is None
        with contextlib.closing(sqlite3.connect(tmp_path / "importer.sqlite")) as other, other:
            # as if the response to the commit were lost
            other.execute(
                "UPDATE import SET state = 'failed', receipt = NULL, error = ?", [json_text(FAILURE)]
            )
        removing = await harness.supervisor.remove(import_id, drops_rows=True)
        assert removing is not None
        found = removing
        while found is not None and found.state is State.REMOVING:
            found = await harness.store.wait_for_change(import_id, found.version, 60)
        assert found is not None
        assert (found.state, found.error) == (State.SUCCEEDED, None)
    assert row_count(database_url) == SAMPLE_ROWS


async def test_an_import_that_never_ran_is_removed_without_a_database(
    tmp_path: Path, server: HttpServer
) -> None:
    nowhere = "postgresql://me@127.0.0.1:1/none"
    async with supervising(tmp_path, nowhere, command=MISBEHAVING, slots=1) as harness:
        await harness.submit("https://example.org/waits")
        import_id = await harness.submit(server.url)
        await harness.supervisor.cancel(import_id)
        await harness.supervisor.remove(import_id, drops_rows=True)
        await harness.until_gone(import_id)
