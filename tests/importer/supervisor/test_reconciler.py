"""What ended imports leave: staging is dropped or kept for a retry, old records are deleted."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from importer.model import State
from importer.store.rows import time_text
from importer.supervisor import reconciler
from importer.supervisor.limits import Limits
from importer.supervisor.outcome import RetryPolicy
from loader.contract import FailureCode
from loader.postgres import import_lock
from tests.support.http_server import HttpServer
from tests.support.loader_process import leftovers, query
from tests.support.mid_load import resume_serving
from tests.support.supervision import (
    DEADLINE_SECONDS,
    ODD,
    assert_all_gone,
    loader,
    stall,
    supervising,
    until,
)

TWO_STAGED = "SELECT FROM loader.part HAVING count(DISTINCT import_key) = 2"
STAGED = (
    "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE nspname = 'loader' AND relkind = 'p' ORDER BY relname"
)

SOON = Limits(reconcile_retry_seconds=0.1)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_staging_of_an_import_that_failed_for_good_is_dropped(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The first loader is stopped with parts committed; the second fails, and says that something may be left."""
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        import_id = await scene.submit(f"{server.origin}/finds_a_bad_row")
        await scene.until_part()
    assert "staging" in leftovers(database_url)
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        found = await scene.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.BAD_ROW
        await until("the end of its staging", lambda: "staging" not in leftovers(database_url))
    await assert_all_gone(database_url)


@pytest.mark.parametrize("name", ["is_forbidden", "ends_without_a_word"])
async def test_staging_that_a_failure_does_not_spoil_is_kept_for_a_day(
    name: str, tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """No retry by the service helps: the failure is final, or nobody knows what it is."""
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        import_id = await scene.submit(f"{server.origin}/{name}")
        other = await scene.submit(f"{server.origin}/finds_a_bad_row")
        await scene.until_part()
        await until("parts of both", lambda: query(database_url, TWO_STAGED))
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        found = await scene.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert not found.error.retryable
        assert found.progress is not None
        await scene.until_state(other, State.FAILED)
        await until("the end of the other's staging", lambda: len(query(database_url, STAGED)) == 1)
    resume_serving(server)
    set_column(tmp_path, import_id, "finished_at", datetime.now(UTC) - timedelta(hours=23))
    async with supervising(tmp_path, database_url) as scene:  # which looks at once
        await scene.store.retry(import_id)
        scene.supervisor.wake()
        await scene.until(import_id, lambda found: found.state is not State.FAILED)
        assert (await scene.receipt(import_id)).attempts == 2
    await assert_all_gone(database_url)


async def test_staging_that_nobody_goes_on_from_is_dropped_after_a_day(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        import_id = await scene.submit(f"{server.origin}/is_forbidden")
        await scene.until_part()
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        await scene.until_state(import_id, State.FAILED)
    set_column(tmp_path, import_id, "finished_at", datetime.now(UTC) - timedelta(hours=25))
    async with supervising(tmp_path, database_url, command=ODD):
        await until("the end of its staging", lambda: "staging" not in leftovers(database_url))
    await assert_all_gone(database_url)


def set_column(folder: Path, import_id: UUID, column: str, time: datetime) -> None:
    """Give an import of a control DB that no service has open another time."""
    with contextlib.closing(sqlite3.connect(folder / "importer.sqlite", isolation_level=None)) as connection:
        connection.execute(f"UPDATE import SET {column} = ? WHERE id = ?", [time_text(time), str(import_id)])


async def test_staging_of_a_failure_that_may_pass_is_kept_for_a_retry(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, retry_policy=RetryPolicy(attempts=1)) as scene:
        stall(server)
        import_id = await scene.submit(server.url)
        await scene.until_part()
        loader().kill()
        await scene.until_state(import_id, State.FAILED)
        resume_serving(server)
        assert await scene.store.retry(import_id) is not None
        scene.supervisor.wake()
        await scene.until(import_id, lambda found: found.state is not State.FAILED)
        assert (await scene.receipt(import_id)).attempts == 2


@pytest.mark.long
async def test_staging_that_somebody_holds_keeps_no_other_from_being_dropped(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        import_ids = [await scene.submit(f"{server.origin}/finds_a_bad_row") for _ in range(2)]
        await scene.until_part()
        await until("parts of both", lambda: query(database_url, TWO_STAGED))
    with psycopg.connect(database_url, autocommit=True) as other:
        await until("the first's lock", lambda: import_lock.try_lock(other, 1))
        async with supervising(tmp_path, database_url, command=ODD) as scene:
            for import_id in import_ids:
                await scene.until_state(import_id, State.FAILED)
            held = [("import_1",)]
            await until("the end of the other's", lambda: query(database_url, STAGED) == held)
    async with supervising(tmp_path, database_url):
        await until("the end of its staging", lambda: "staging" not in leftovers(database_url))
    await assert_all_gone(database_url)


async def test_old_records_are_deleted(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        old, new = [await scene.submit("https://example.org/fails") for _ in range(2)]
        await scene.until_state(old, State.FAILED)
        await scene.until_state(new, State.FAILED)
    set_column(tmp_path, old, "finished_at", datetime(2024, 2, 1, tzinfo=UTC))
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        await scene.until_gone(old)
        assert await scene.store.get(new) is not None


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
    tmp_path: Path, database_url: str, postgres: str, server: HttpServer
) -> None:
    """Neither staging nor its record goes before; the record is old enough to go."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        import_id = await scene.submit(f"{server.origin}/is_forbidden")
        await scene.until_part()
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        await scene.until_state(import_id, State.FAILED)
    set_column(tmp_path, import_id, "finished_at", datetime(2024, 2, 1, tzinfo=UTC))
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        async with supervising(tmp_path, database_url, limits=SOON) as scene:
            for _ in range(3):
                assert await scene.supervisor.probe.check(0) is not None
            assert (await scene.get(import_id)).state is State.FAILED
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
            await scene.until_gone(import_id)
    await assert_all_gone(database_url)


async def test_a_record_goes_only_after_its_staging(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """Somebody has made a view of the staging, so that it can't be dropped, and the record is old enough to go."""
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        held, other = [await scene.submit(f"{server.origin}/is_forbidden") for _ in range(2)]
        await scene.until_part()
        await until("parts of both", lambda: query(database_url, TWO_STAGED))
    async with supervising(tmp_path, database_url, command=ODD) as scene:
        for import_id in (held, other):
            await scene.until_state(import_id, State.FAILED)
    for import_id in (held, other):
        set_column(tmp_path, import_id, "finished_at", datetime(2024, 2, 1, tzinfo=UTC))
    parts = query(
        database_url,
        "SELECT format('loader.import_%s_part_%s', import_key, part) FROM loader.part"
        f" JOIN loader.import USING (import_key) WHERE id = '{held}'",
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE VIEW staged AS SELECT * FROM {parts[0][0]}".encode())
        async with supervising(tmp_path, database_url, limits=SOON) as scene:
            await scene.until_gone(other)
            assert (await scene.get(held)).state is State.FAILED
            connection.execute("DROP VIEW staged")
            await scene.until_gone(held)
    await assert_all_gone(database_url)


async def test_a_clock_that_is_set_forward_makes_nothing_old(
    tmp_path: Path, database_url: str, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither staging that is kept for a day nor a record that is kept for thirty."""
    stall(server)
    async with supervising(tmp_path, database_url) as scene:
        kept = await scene.submit(f"{server.origin}/is_forbidden")
        dropped = await scene.submit(f"{server.origin}/finds_a_bad_row")
        await scene.until_part()
        await until("parts of both", lambda: query(database_url, TWO_STAGED))
    async with supervising(tmp_path, database_url, command=ODD, slots=1) as scene:
        await scene.until_state(kept, State.FAILED)
        monkeypatch.setattr(reconciler, "utc_now", lambda: datetime.now(UTC) + timedelta(days=2000))
        await scene.until_state(dropped, State.FAILED)
        await until("the end of the other's staging", lambda: len(query(database_url, STAGED)) == 1)
        new = await scene.submit("https://example.org/fails")  # and so a look after that
        await scene.until_state(new, State.FAILED)
    assert len(query(database_url, STAGED)) == 1
    monkeypatch.undo()
    async with supervising(tmp_path, database_url) as scene:
        assert (await scene.get(kept)).state is State.FAILED
