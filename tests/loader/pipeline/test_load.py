"""The tidying after `published`: it removes replaced imports, waits for no lock, and ends at a signal."""

from __future__ import annotations

import signal
from collections.abc import Generator

import pytest
import uuid_utils.compat

from importer.model import State
from loader.contract import ExitCode, Job, Published
from tests.support.http_server import HttpServer
from tests.support.loader_process import Loaders, assert_nothing_is_left, query, row_count, wait_for
from tests.support.mid_load import backends, holding, staged_part, wait_for_lock
from tests.support.supervision import SupervisorHarness, assert_all_gone, loader, until
from tests.support.target import execute

pytestmark = pytest.mark.slow

SLOW_DROP = """
CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); END';
CREATE EVENT TRIGGER slow_drop ON ddl_command_start WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION wait()
"""
DROPS = "SELECT FROM pg_stat_activity WHERE application_name LIKE '% tidy' AND wait_event = 'PgSleep'"

LEFT = "SELECT FROM loader.import WHERE state = 'removing'"


@pytest.fixture
def small_file(sample: bytes) -> Generator[HttpServer]:
    """The server of another file."""
    with HttpServer(sample[: sample.index(b"\n", 100_000) + 1]) as server:
        yield server


def test_a_publish_is_reported_before_the_tidying_and_sigterm_ends_that_with_0(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    loaders.start("run", small_file.url).receipt()
    execute(loaders.database_url, SLOW_DROP)
    replacement = loaders.start("run", server.url, "--mode", "replace")
    wait_for("the tidying", lambda: query(loaders.database_url, DROPS))
    last = replacement.messages()[-1]
    assert isinstance(last, Published)
    assert row_count(loaders.database_url) == last.receipt.rows_published
    assert replacement.process.poll() is None
    replacement.send(signal.SIGTERM)
    assert replacement.wait() == ExitCode.PUBLISHED
    execute(loaders.database_url, "DROP EVENT TRIGGER slow_drop")
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


def test_a_publish_does_not_wait_for_the_readers_of_what_others_remove(
    loaders: Loaders, server: HttpServer, small_file: HttpServer
) -> None:
    import_id = loaders.start("run", small_file.url).receipt().import_id
    with holding(loaders, f"LOCK TABLE {staged_part(loaders)} IN ACCESS SHARE MODE"):
        removal = loaders.start("drop", "--published", import_id)
        wait_for_lock(loaders, "drop")
        removal.send(signal.SIGINT)
        assert removal.wait() == ExitCode.INTERRUPTED
        wait_for("its lock to go", lambda: not backends(loaders, "drop"))
        receipt = loaders.start("run", server.url).receipt()
        assert row_count(loaders.database_url) == receipt.rows_published
        assert query(loaders.database_url, "SELECT state FROM loader.import WHERE import_key = 1") == [
            ("removing",)
        ]
    assert loaders.start("gc").wait() == 0
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.anyio
async def test_the_service_reports_a_publish_whose_loader_still_tidies_up(
    harness: SupervisorHarness, server: HttpServer, small_file: HttpServer
) -> None:
    await harness.receipt(await harness.submit(small_file.url))
    execute(harness.database_url, SLOW_DROP)
    job = Job(source=server.url, import_id=str(uuid_utils.compat.uuid7()), mode="replace")
    submitted, _ = await harness.store.submit(job, None)
    harness.supervisor.wake()
    await until("the tidying", lambda: query(harness.database_url, DROPS))
    await harness.until_state(submitted.id, State.SUCCEEDED)
    assert await harness.exit_codes(submitted.id) == [ExitCode.PUBLISHED]
    assert loader().is_running()
    execute(harness.database_url, "DROP EVENT TRIGGER slow_drop")
    query(harness.database_url, DROPS.replace("SELECT", "SELECT pg_cancel_backend(pid)"))
    # the loader skips that import, and the service removes it
    await until("the removal", lambda: not query(harness.database_url, LEFT))
    assert (await harness.get(submitted.id)).state is State.SUCCEEDED
    await assert_all_gone(harness.database_url)
