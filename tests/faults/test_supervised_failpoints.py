"""A loader of the service crashes, fails or hangs at each of its steps: every import ends as it should."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from importer.model import FINISHED, State
from importer.supervisor.limits import LIMITS, SupervisorLimits
from loader.contract import FailureCode
from tests.support.http_server import HttpServer
from tests.support.loader_process import row_count, start_over
from tests.support.paths import PROGRAMS
from tests.support.supervision import SupervisorHarness, assert_all_gone, supervising, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(1200)]

# Three parts.
ROWS = 7_000
# Loaders report progress every second or two, less often on a busy machine.
QUICK = SupervisorLimits(stall_seconds=6)


@pytest.fixture
def small_server(server: HttpServer, sample: bytes) -> HttpServer:
    server.content = b"".join(sample.splitlines(keepends=True)[: ROWS + 1])
    return server


@pytest.fixture
def steps(every_step: bool) -> Iterable[int]:
    return itertools.count(1) if every_step else (6, 17)


@asynccontextmanager
async def arming(
    folder: Path, database_url: str, what: str, command: str = "run", limits: SupervisorLimits = LIMITS
) -> AsyncGenerator[SupervisorHarness]:
    """Run loaders of which the first has a failpoint; check that nothing is left, then empty the database."""
    folder.mkdir()
    program = (sys.executable, str(PROGRAMS / "failpoint_loader.py"), command, what, str(folder / "stderr"))
    async with supervising(folder, database_url, command=program, limits=limits) as harness:
        yield harness
    await assert_all_gone(database_url)
    start_over(database_url)


def was_reached(folder: Path) -> bool:
    stderr = folder / "stderr"
    return stderr.exists() and "failpoint" in stderr.read_text()


@pytest.mark.parametrize("what", ["crash", pytest.param("hang", marks=pytest.mark.long)])
async def test_after_a_crash_or_a_hang_at_any_step_the_next_loader_resumes(
    what: str,
    steps: Iterable[int],
    tmp_path: Path,
    database_url: str,
    small_server: HttpServer,
) -> None:
    for step in steps:
        folder = tmp_path / str(step)
        async with arming(folder, database_url, f"{what}@{step}", limits=QUICK) as harness:
            import_id = await harness.submit(small_server.url)
            assert (await harness.receipt(import_id)).rows_published == row_count(database_url) == ROWS
            codes = await harness.exit_codes(import_id)
        if not was_reached(folder):
            return
        # An attempt ends with the message of its publish: what happens while the loader tidies up is no failure.
        is_tidying = " in tidy," in (folder / "stderr").read_text()
        assert codes in (
            [[0]] if is_tidying else [[-9, 0], [-9]]
        )  # [-9]: after the commit, before the message


async def test_after_an_error_at_any_step_the_import_fails_and_a_retry_resumes(
    steps: Iterable[int], tmp_path: Path, database_url: str, small_server: HttpServer
) -> None:
    for step in steps:
        folder = tmp_path / str(step)
        async with arming(folder, database_url, f"error@{step}") as harness:
            import_id = await harness.submit(small_server.url)
            found = await harness.until(import_id, lambda found: found.state in FINISHED)
            if found.state is State.SUCCEEDED:  # the error came after the publish
                assert row_count(database_url) == ROWS
            else:
                assert found.error is not None
                assert found.error.code is FailureCode.INTERNAL_ERROR
                assert row_count(database_url) == 0
                await harness.store.retry(import_id)
                harness.supervisor.wake()
                await harness.receipt(import_id)
                assert row_count(database_url) == ROWS
        if not was_reached(folder):
            return


async def test_a_loader_that_hangs_at_any_step_ends_by_itself_when_cancelled(
    steps: Iterable[int], tmp_path: Path, database_url: str, small_server: HttpServer
) -> None:
    for step in steps:
        folder = tmp_path / str(step)
        async with arming(folder, database_url, f"hang@{step}") as harness:
            import_id = await harness.submit(small_server.url)
            await until("a step", lambda folder=folder: was_reached(folder) or row_count(database_url))
            if was_reached(folder):
                await harness.supervisor.cancel(import_id)
            found = await harness.until(import_id, lambda found: found.state in FINISHED)
            published = found.state is State.SUCCEEDED
            assert row_count(database_url) == (ROWS if published else 0)
            assert await harness.exit_codes(import_id) == [0 if published else 143]
        if not was_reached(folder):
            return


@pytest.mark.long
async def test_a_removal_that_hangs_is_killed_and_resumed(
    tmp_path: Path, database_url: str, small_server: HttpServer
) -> None:
    folder = tmp_path / "here"
    async with arming(folder, database_url, "hang@2", "drop", SupervisorLimits(drop_seconds=5)) as harness:
        import_id = await harness.submit(small_server.url)
        await harness.receipt(import_id)
        await harness.supervisor.remove(import_id, drops_rows=True)
        await harness.until_gone(import_id)
        assert was_reached(folder)
        assert row_count(database_url) == 0
