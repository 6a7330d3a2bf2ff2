"""Staging of finished imports is dropped or kept for a retry; old records are deleted."""

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
from importer.supervisor.limits import SupervisorLimits
from importer.supervisor.outcome import AttemptRetryPolicy
from loader.contract import FailureCode
from loader.postgres import import_lock
from tests.support.http_server import HttpServer
from tests.support.loader_process import leftovers, query
from tests.support.mid_load import resume_serving
from tests.support.supervision import (
    DEADLINE_SECONDS,
    MISBEHAVING,
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

SOON = SupervisorLimits(reconcile_retry_seconds=0.1)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def suspended(folder: Path, database_url: str, server: HttpServer, path: str) -> UUID:
    """Return an import whose loader was suspended with committed parts."""
    stall(server)
    async with supervising(folder, database_url) as harness:
        import_id = await harness.submit(f"{server.origin}/{path}")
        await harness.until_part()
        return import_id


async def test_useless_staging_of_a_failed_import_is_dropped(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The first loader is suspended with committed parts; the second fails and reports that staging may be left."""
    import_id = await suspended(tmp_path, database_url, server, "finds_a_bad_row")
    assert "staging" in leftovers(database_url)
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        found = await harness.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert found.error.code is FailureCode.BAD_ROW
        await until("the end of its staging", lambda: "staging" not in leftovers(database_url))
    await assert_all_gone(database_url)


@pytest.mark.parametrize("name", ["is_forbidden", "ends_without_a_message"])
async def test_useful_staging_of_a_failed_import_is_kept_for_a_day(
    name: str, tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The failure is final, or unknown."""
    stall(server)
    async with supervising(tmp_path, database_url) as harness:
        import_id = await harness.submit(f"{server.origin}/{name}")
        other = await harness.submit(f"{server.origin}/finds_a_bad_row")
        await harness.until_part()
        await until("parts of both", lambda: query(database_url, TWO_STAGED))
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        found = await harness.until_state(import_id, State.FAILED)
        assert found.error is not None
        assert not found.error.retryable
        assert found.progress is not None
        await harness.until_state(other, State.FAILED)
        await until("the end of the other's staging", lambda: len(query(database_url, STAGED)) == 1)
    resume_serving(server)
    set_column(tmp_path, import_id, "finished_at", datetime.now(UTC) - timedelta(hours=23))
    async with supervising(tmp_path, database_url) as harness:  # which reconciles at once
        await harness.store.retry(import_id)
        harness.supervisor.wake()
        await harness.until(import_id, lambda found: found.state is not State.FAILED)
        assert (await harness.receipt(import_id)).attempts == 2
    await assert_all_gone(database_url)


async def test_staging_that_is_not_resumed_is_dropped_after_a_day(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    import_id = await suspended(tmp_path, database_url, server, "is_forbidden")
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        await harness.until_state(import_id, State.FAILED)
    set_column(tmp_path, import_id, "finished_at", datetime.now(UTC) - timedelta(hours=25))
    async with supervising(tmp_path, database_url, command=MISBEHAVING):
        await until("the end of its staging", lambda: "staging" not in leftovers(database_url))
    await assert_all_gone(database_url)


def set_column(folder: Path, import_id: UUID, column: str, time: datetime) -> None:
    """Change a time of an import in a control DB that no service has open."""
    with contextlib.closing(sqlite3.connect(folder / "importer.sqlite", isolation_level=None)) as connection:
        connection.execute(f"UPDATE import SET {column} = ? WHERE id = ?", [time_text(time), str(import_id)])


async def test_staging_of_a_retryable_failure_is_kept_for_a_retry(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    async with supervising(tmp_path, database_url, retry_policy=AttemptRetryPolicy(attempts=1)) as harness:
        stall(server)
        import_id = await harness.submit(server.url)
        await harness.until_part()
        loader().kill()
        await harness.until_state(import_id, State.FAILED)
        resume_serving(server)
        assert await harness.store.retry(import_id) is not None
        harness.supervisor.wake()
        await harness.until(import_id, lambda found: found.state is not State.FAILED)
        assert (await harness.receipt(import_id)).attempts == 2


@pytest.mark.long
async def test_locked_staging_does_not_delay_the_drop_of_other_staging(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    stall(server)
    async with supervising(tmp_path, database_url) as harness:
        import_ids = [await harness.submit(f"{server.origin}/finds_a_bad_row") for _ in range(2)]
        await harness.until_part()
        await until("parts of both", lambda: query(database_url, TWO_STAGED))
    with psycopg.connect(database_url, autocommit=True) as other:
        await until("the first's lock", lambda: import_lock.try_lock(other, 1))
        async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
            for import_id in import_ids:
                await harness.until_state(import_id, State.FAILED)
            held = [("import_1",)]
            await until("the end of the other's", lambda: query(database_url, STAGED) == held)
    async with supervising(tmp_path, database_url):
        await until("the end of its staging", lambda: "staging" not in leftovers(database_url))
    await assert_all_gone(database_url)


async def test_old_records_are_deleted(tmp_path: Path, database_url: str) -> None:
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        old, new = [await harness.submit("https://example.org/fails") for _ in range(2)]
        await harness.until_state(old, State.FAILED)
        await harness.until_state(new, State.FAILED)
    set_column(tmp_path, old, "finished_at", datetime(2024, 2, 1, tzinfo=UTC))
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        await harness.until_gone(old)
        assert await harness.store.get(new) is not None


async def test_a_failed_import_that_the_ledger_has_as_published_succeeds(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The answer to the commit was lost with the database, for longer than the retries last."""
    async with supervising(tmp_path, database_url) as harness:
        import_id = await harness.submit(server.url)
        receipt = await harness.receipt(import_id)
    error = json.dumps({"code": "loader_killed", "message": "It was.", "hint": "None.", "retryable": True})
    with contextlib.closing(
        sqlite3.connect(tmp_path / "importer.sqlite", isolation_level=None)
    ) as connection:
        connection.execute("UPDATE import SET state = 'failed', receipt = NULL, error = ?", [error])
    async with supervising(tmp_path, database_url) as harness:
        await harness.store.wait_for_change(
            import_id, (await harness.get(import_id)).version, DEADLINE_SECONDS
        )
        found = await harness.get(import_id)
        assert (found.state, found.error, found.receipt) == (State.SUCCEEDED, None, receipt)


async def test_reconciliation_is_repeated_when_the_database_is_back(
    tmp_path: Path, database_url: str, postgres: str, server: HttpServer
) -> None:
    """Neither staging nor record is deleted before, although the record is old enough."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    import_id = await suspended(tmp_path, database_url, server, "is_forbidden")
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        await harness.until_state(import_id, State.FAILED)
    set_column(tmp_path, import_id, "finished_at", datetime(2024, 2, 1, tzinfo=UTC))
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        async with supervising(tmp_path, database_url, limits=SOON) as harness:
            for _ in range(3):
                assert await harness.supervisor.probe.check(0) is not None
            assert (await harness.get(import_id)).state is State.FAILED
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
            await harness.until_gone(import_id)
    await assert_all_gone(database_url)


async def test_a_record_is_deleted_only_after_its_staging(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """A view on the staging prevents its drop, and the record is old enough to be deleted."""
    stall(server)
    async with supervising(tmp_path, database_url) as harness:
        held, other = [await harness.submit(f"{server.origin}/is_forbidden") for _ in range(2)]
        await harness.until_part()
        await until("parts of both", lambda: query(database_url, TWO_STAGED))
    async with supervising(tmp_path, database_url, command=MISBEHAVING) as harness:
        for import_id in (held, other):
            await harness.until_state(import_id, State.FAILED)
    for import_id in (held, other):
        set_column(tmp_path, import_id, "finished_at", datetime(2024, 2, 1, tzinfo=UTC))
    parts = query(
        database_url,
        "SELECT format('loader.import_%s_part_%s', import_key, part) FROM loader.part"
        f" JOIN loader.import USING (import_key) WHERE id = '{held}'",
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE VIEW staged AS SELECT * FROM {parts[0][0]}".encode())
        async with supervising(tmp_path, database_url, limits=SOON) as harness:
            await harness.until_gone(other)
            assert (await harness.get(held)).state is State.FAILED
            connection.execute("DROP VIEW staged")
            await harness.until_gone(held)
    await assert_all_gone(database_url)


async def test_a_clock_set_forward_deletes_nothing(
    tmp_path: Path, database_url: str, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither staging that is kept for a day nor records that are kept for thirty."""
    stall(server)
    async with supervising(tmp_path, database_url) as harness:
        kept = await harness.submit(f"{server.origin}/is_forbidden")
        dropped = await harness.submit(f"{server.origin}/finds_a_bad_row")
        await harness.until_part()
        await until("parts of both", lambda: query(database_url, TWO_STAGED))
    async with supervising(tmp_path, database_url, command=MISBEHAVING, slots=1) as harness:
        await harness.until_state(kept, State.FAILED)
        monkeypatch.setattr(reconciler, "utc_now", lambda: datetime.now(UTC) + timedelta(days=2000))
        await harness.until_state(dropped, State.FAILED)
        await until("the end of the other's staging", lambda: len(query(database_url, STAGED)) == 1)
        new = await harness.submit("https://example.org/fails")  # causes another reconciliation
        await harness.until_state(new, State.FAILED)
    assert len(query(database_url, STAGED)) == 1
    monkeypatch.undo()
    async with supervising(tmp_path, database_url) as harness:
        assert (await harness.get(kept)).state is State.FAILED
