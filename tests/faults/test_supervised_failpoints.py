"""Under the service a loader dies, breaks or hangs at each of its steps in turn: every import ends as it should."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from importer.model import FINISHED, State
from importer.supervisor.limits import LIMITS, Limits
from loader.contract import FailureCode
from tests.support.http_server import HttpServer
from tests.support.loader_process import row_count, start_over
from tests.support.paths import PROGRAMS
from tests.support.supervision import SupervisorHarness, assert_all_gone, supervising, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(1200)]

# Three parts.
ROWS = 7_000
# Loaders take a second or two from one report that is new to the next, and more on a busy machine.
QUICK = Limits(stall_seconds=6)


@pytest.fixture
def small_server(server: HttpServer, sample: bytes) -> HttpServer:
    server.content = b"".join(sample.splitlines(keepends=True)[: ROWS + 1])
    return server


@pytest.fixture
def steps(every_step: bool) -> Iterable[int]:
    return itertools.count(1) if every_step else (6, 17)


@asynccontextmanager
async def arming(
    folder: Path, database_url: str, what: str, command: str = "run", limits: Limits = LIMITS
) -> AsyncGenerator[SupervisorHarness]:
    """Supervise loaders of which the first has a failpoint; see at the end that nothing is left, and start over."""
    folder.mkdir()
    program = (sys.executable, str(PROGRAMS / "failpoint_loader.py"), command, what, str(folder / "stderr"))
    async with supervising(folder, database_url, command=program, limits=limits) as scene:
        yield scene
    await assert_all_gone(database_url)
    start_over(database_url)


def was_reached(folder: Path) -> bool:
    stderr = folder / "stderr"
    return stderr.exists() and "failpoint" in stderr.read_text()


@pytest.mark.parametrize("what", ["crash", pytest.param("hang", marks=pytest.mark.long)])
async def test_a_loader_that_dies_or_hangs_at_any_step_is_followed_by_one_that_goes_on(
    what: str,
    steps: Iterable[int],
    tmp_path: Path,
    database_url: str,
    small_server: HttpServer,
) -> None:
    for step in steps:
        folder = tmp_path / str(step)
        async with arming(folder, database_url, f"{what}@{step}", limits=QUICK) as scene:
            import_id = await scene.submit(small_server.url)
            assert (await scene.receipt(import_id)).rows_published == row_count(database_url) == ROWS
            codes = await scene.exit_codes(import_id)
        if not was_reached(folder):
            return
        assert codes in ([-9, 0], [-9])  # it had published before it died


async def test_a_loader_that_breaks_at_any_step_fails_and_a_retry_goes_on(
    steps: Iterable[int], tmp_path: Path, database_url: str, small_server: HttpServer
) -> None:
    for step in steps:
        folder = tmp_path / str(step)
        async with arming(folder, database_url, f"error@{step}") as scene:
            import_id = await scene.submit(small_server.url)
            found = await scene.until(import_id, lambda found: found.state in FINISHED)
            if found.state is State.SUCCEEDED:  # what was left to do is not the import
                assert row_count(database_url) == ROWS
            else:
                assert found.error is not None
                assert found.error.code is FailureCode.INTERNAL_ERROR
                assert row_count(database_url) == 0
                await scene.store.retry(import_id)
                scene.supervisor.wake()
                await scene.receipt(import_id)
                assert row_count(database_url) == ROWS
        if not was_reached(folder):
            return


async def test_cancelled_while_any_step_hangs_a_loader_ends_by_itself(
    steps: Iterable[int], tmp_path: Path, database_url: str, small_server: HttpServer
) -> None:
    for step in steps:
        folder = tmp_path / str(step)
        async with arming(folder, database_url, f"hang@{step}") as scene:
            import_id = await scene.submit(small_server.url)
            await until("a step", lambda folder=folder: was_reached(folder) or row_count(database_url))
            if was_reached(folder):
                await scene.supervisor.cancel(import_id)
            found = await scene.until(import_id, lambda found: found.state in FINISHED)
            published = found.state is State.SUCCEEDED
            assert row_count(database_url) == (ROWS if published else 0)
            assert await scene.exit_codes(import_id) == [0 if published else 143]
        if not was_reached(folder):
            return


@pytest.mark.long
async def test_a_removal_that_hangs_is_killed_and_gone_on_with(
    tmp_path: Path, database_url: str, small_server: HttpServer
) -> None:
    folder = tmp_path / "here"
    async with arming(folder, database_url, "hang@2", "drop", Limits(drop_seconds=5)) as scene:
        import_id = await scene.submit(small_server.url)
        await scene.receipt(import_id)
        await scene.supervisor.remove(import_id)
        await scene.until_gone(import_id)
        assert was_reached(folder)
        assert row_count(database_url) == 0
