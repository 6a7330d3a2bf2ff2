"""A run is killed, stopped or suspended at each of its steps in turn: never half an import, and an end to every one."""

from __future__ import annotations

import itertools
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from loader_process import (
    LoaderProcess,
    Loaders,
    assert_nothing_is_left,
    assert_staging_is_whole,
    checksum,
    row_count,
    start_over,
    wait_until_disconnected,
)

from loader import wire

# So that the first of two workers ends its first part in mid-file, and both more than one.
ROWS = 7_000

# Two loaders a step, about a second each, forty steps; five times as much on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def small_file(sample: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "trips.csv"
    path.write_bytes(b"".join(sample.splitlines(keepends=True)[: ROWS + 1]))
    return path


@pytest.fixture
def loaders(tmp_path: Path, database_url: str) -> Loaders:
    return Loaders(tmp_path, database_url)


def at_each_step(
    loaders: Loaders, number: signal.Signals, *arguments: str
) -> Iterator[tuple[int, LoaderProcess]]:
    """Yield, for each step that the command passes, a run of it that has ended and got the signal there."""
    for step in itertools.count(1):
        loader = loaders.start(*arguments, armed=f"{number.name}@{step}")
        code = loader.wait()
        if "failpoint" not in loader.stderr:
            assert code == 0
            return
        yield step, loader


@pytest.fixture
def whole(loaders: Loaders, small_file: Path) -> str:
    """What trips holds after an import that nothing happened to; it is taken away again."""
    loaders.start("run", str(small_file)).receipt()
    whole = checksum(loaders.database_url)
    start_over(loaders.database_url)
    return whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_at_any_step_a_run_leaves_nothing_or_all(
    number: signal.Signals, loaders: Loaders, small_file: Path, whole: str
) -> None:
    for step, loader in at_each_step(loaders, number, "run", str(small_file), "--workers", "1"):
        rows = row_count(loaders.database_url)
        print(step, loader.wait(), rows)
        if loader.wait() == 0:  # the commit had begun
            assert loader.receipt().rows_published == rows == ROWS
            assert checksum(loaders.database_url) == whole
        else:
            assert loader.wait() == 128 + number
            assert loader.failure().staging == "none"
            assert rows == 0
        assert_nothing_is_left(loaders.database_url)
        start_over(loaders.database_url)
    assert row_count(loaders.database_url) == ROWS


def test_suspended_at_any_step_the_same_command_goes_on(
    loaders: Loaders, small_file: Path, whole: str
) -> None:
    arguments = ("run", str(small_file), "--workers", "1")
    for step, loader in at_each_step(loaders, signal.SIGHUP, *arguments):
        if loader.wait() != 0:
            last = loader.failure()
            assert last.failure.code is wire.FailureCode.SUSPENDED
            assert row_count(loaders.database_url) == 0
            assert_staging_is_whole(loaders.database_url)
            loaders.start(*arguments).receipt()
        print(step, loader.wait())
        assert checksum(loaders.database_url) == whole
        assert_nothing_is_left(loaders.database_url)
        start_over(loaders.database_url)


def test_killed_at_any_step_the_same_command_goes_on(
    loaders: Loaders, small_file: Path, whole: str
) -> None:
    arguments = ("run", str(small_file), "--workers", "1", "--import-id", str(uuid.uuid4()))
    for step, loader in at_each_step(loaders, signal.SIGKILL, *arguments):
        assert loader.wait() == -signal.SIGKILL
        print(step, row_count(loaders.database_url))
        assert row_count(loaders.database_url) in (0, ROWS)
        assert loaders.start(*arguments).receipt().rows_published == ROWS
        assert checksum(loaders.database_url) == whole
        assert_nothing_is_left(loaders.database_url)
        start_over(loaders.database_url)


def test_killed_at_any_step_of_a_replacement_trips_holds_the_old_rows_or_the_new_ones(
    loaders: Loaders, small_file: Path, whole: str, tmp_path: Path
) -> None:
    old_file = tmp_path / "old.csv"
    old_file.write_bytes(b"".join(small_file.read_bytes().splitlines(keepends=True)[:4_000]))
    loaders.start("run", str(old_file)).receipt()
    old = checksum(loaders.database_url)
    for step, loader in at_each_step(loaders, 
        signal.SIGKILL, "run", str(small_file), "--workers", "1", "--mode", "replace"
    ):
        assert loader.wait() == -signal.SIGKILL
        now = checksum(loaders.database_url)
        print(step, now == old)
        assert now in (old, whole)
        wait_until_disconnected(loaders.database_url)
        assert loaders.start("gc").wait() == 0
        assert_nothing_is_left(loaders.database_url)
        assert checksum(loaders.database_url) == now
        if now == whole:
            loaders.start("run", str(old_file), "--mode", "replace").receipt()
    assert checksum(loaders.database_url) == whole
