"""A run is killed, stopped, broken or hung at each of its steps in turn: never half an import, and an end to every one."""

from __future__ import annotations

import itertools
import signal
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from loader import contract
from tests.support.loader_process import (
    LoaderProcess,
    Loaders,
    assert_nothing_is_left,
    assert_staging_is_whole,
    checksum,
    checksum_of,
    row_count,
    start_over,
    wait_for,
    wait_until_disconnected,
    with_limits,
)

# Three parts of one worker, or four of two: a run of about twenty steps.
ROWS = 7_000
# Where not every step is tried: from one to the next that is.
_STRIDE = 7

# Two loaders a step, more than a second each: a minute, and several on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def small_file(sample: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "trips.csv"
    path.write_bytes(b"".join(sample.splitlines(keepends=True)[: ROWS + 1]))
    return path


def at_each_step(
    loaders: Loaders, every_step: bool, what: str, *arguments: str, clean_code: int = 0
) -> Iterator[LoaderProcess]:
    """Yield, for each step that is tried, a run of the command that has ended, having met there what failpoint.py does."""
    for step in itertools.count(1, 1 if every_step else _STRIDE):
        loader = loaders.start(*arguments, armed=f"{what}@{step}")
        code = loader.wait()
        if "failpoint" not in loader.stderr:
            assert (code, step > 1) == (clean_code, True)
            return
        yield loader


@pytest.fixture
def whole(database_url: str, small_file: Path) -> str:
    """The checksum of trips when it holds the file."""
    return checksum_of(database_url, small_file.read_bytes())


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "2")])
def test_stopped_at_any_step_a_run_leaves_nothing_or_all(
    number: signal.Signals, workers: str, loaders: Loaders, small_file: Path, whole: str, every_step: bool
) -> None:
    for loader in at_each_step(
        loaders, every_step, number.name, "run", str(small_file), "--workers", workers
    ):
        rows = row_count(loaders.database_url)
        if loader.wait() == 0:  # the commit had started
            assert loader.receipt().rows_published == rows == ROWS
            assert checksum(loaders.database_url) == whole
        else:
            assert loader.wait() == 128 + number
            assert loader.failure().staging == "none"
            assert rows == 0
        assert_nothing_is_left(loaders.database_url)
        start_over(loaders.database_url)
    assert row_count(loaders.database_url) == ROWS


def test_suspended_at_any_step_the_same_command_resumes(
    loaders: Loaders, small_file: Path, whole: str, every_step: bool
) -> None:
    arguments = ("run", str(small_file), "--workers", "1")
    for loader in at_each_step(loaders, every_step, "SIGHUP", *arguments):
        if loader.wait() != 0:
            last = loader.failure()
            assert last.failure.code is contract.FailureCode.SUSPENDED
            assert row_count(loaders.database_url) == 0
            assert_staging_is_whole(loaders.database_url)
            loaders.start(*arguments).receipt()
        assert checksum(loaders.database_url) == whole
        assert_nothing_is_left(loaders.database_url)
        start_over(loaders.database_url)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_at_any_step_the_same_command_resumes(
    workers: str, loaders: Loaders, small_file: Path, whole: str, every_step: bool
) -> None:
    arguments = ("run", str(small_file), "--workers", workers, "--import-id", str(uuid.uuid4()))
    for loader in at_each_step(loaders, every_step, "crash", *arguments):
        assert loader.wait() == -signal.SIGKILL
        assert row_count(loaders.database_url) in (0, ROWS)
        assert loaders.start(*arguments).receipt().rows_published == ROWS
        assert checksum(loaders.database_url) == whole
        assert_nothing_is_left(loaders.database_url)
        start_over(loaders.database_url)


def test_killed_at_any_step_of_a_replacement_trips_has_the_old_rows_or_the_new_ones(
    loaders: Loaders, small_file: Path, whole: str, tmp_path: Path, every_step: bool
) -> None:
    old_file = tmp_path / "old.csv"
    old_file.write_bytes(b"".join(small_file.read_bytes().splitlines(keepends=True)[:4_000]))
    loaders.start("run", str(old_file)).receipt()
    old = checksum(loaders.database_url)
    for loader in at_each_step(
        loaders, every_step, "crash", "run", str(small_file), "--workers", "1", "--mode", "replace"
    ):
        assert loader.wait() == -signal.SIGKILL
        now = checksum(loaders.database_url)
        assert now in (old, whole)
        wait_until_disconnected(loaders.database_url)
        assert loaders.start("gc").wait() == 0
        assert_nothing_is_left(loaders.database_url)
        assert checksum(loaders.database_url) == now
        if now == whole:
            loaders.start("run", str(old_file), "--mode", "replace").receipt()
    assert checksum(loaders.database_url) == whole


def test_killed_at_any_step_of_a_failing_run_and_its_roll_back_gc_leaves_nothing(
    loaders: Loaders, small_file: Path, every_step: bool
) -> None:
    small_file.write_bytes(small_file.read_bytes() + b"not a trip\n")
    arguments = ("run", str(small_file), "--workers", "1")
    for loader in at_each_step(loaders, every_step, "crash", *arguments, clean_code=contract.ExitCode.DATA):
        assert loader.wait() == -signal.SIGKILL
        wait_until_disconnected(loaders.database_url)
        assert loaders.start("gc").wait() == 0
        assert row_count(loaders.database_url) == 0
        assert_nothing_is_left(loaders.database_url)
    assert_nothing_is_left(loaders.database_url)


def test_killed_at_any_step_of_a_removal_gc_ends_it(
    loaders: Loaders, small_file: Path, every_step: bool
) -> None:
    arguments = ("run", str(small_file), "--import-id", str(uuid.uuid4()))
    loaders.start(*arguments).receipt()
    for loader in at_each_step(loaders, every_step, "crash", "drop", arguments[-1], "--published"):
        assert loader.wait() == -signal.SIGKILL
        assert row_count(loaders.database_url) == 0
        wait_until_disconnected(loaders.database_url)
        assert loaders.start("gc").wait() == 0
        assert_nothing_is_left(loaders.database_url)
        loaders.start(*arguments).receipt()
    assert row_count(loaders.database_url) == 0
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_unexpected_error_at_any_step_is_reported_and_the_same_command_resumes(
    workers: str, loaders: Loaders, small_file: Path, whole: str, every_step: bool
) -> None:
    for loader in at_each_step(loaders, every_step, "error", "run", str(small_file), "--workers", workers):
        if loader.wait() == 0:  # what was left to do is not the import
            assert checksum(loaders.database_url) == whole
        else:
            last = loader.failure()
            assert last.failure.code is contract.FailureCode.INTERNAL_ERROR
            assert "RuntimeError: a failpoint's error" in last.failure.message
            assert "Traceback" in loader.stderr
            assert row_count(loaders.database_url) == 0
            if last.staging == "kept":
                loaders.start("run", str(small_file)).receipt()
                assert checksum(loaders.database_url) == whole
        assert_nothing_is_left(loaders.database_url)
        start_over(loaders.database_url)


def test_an_error_at_any_step_of_a_roll_back_reports_the_staging_left(
    loaders: Loaders, small_file: Path, every_step: bool
) -> None:
    small_file.write_bytes(small_file.read_bytes() + b"not a trip\n")
    arguments = ("run", str(small_file), "--workers", "1")
    for loader in at_each_step(loaders, every_step, "error", *arguments, clean_code=contract.ExitCode.DATA):
        last = loader.failure()
        assert last.failure.code in (contract.FailureCode.INTERNAL_ERROR, contract.FailureCode.BAD_ROW)
        if last.staging == "unknown":
            assert "loader gc" in last.failure.hint
        if last.staging != "none":  # kept: an error before the roll back
            assert loaders.start("gc").wait() == 0
        assert row_count(loaders.database_url) == 0
        assert_nothing_is_left(loaders.database_url)


QUICK_TO_LEAVE = with_limits(commit_seconds=2, rollback_step_seconds=2, abort_seconds=2)


def meets_or_ends(loader: LoaderProcess) -> bool:
    return "failpoint" in loader.stderr or loader.process.poll() is not None


def at_each_hang(
    loaders: Loaders, every_step: bool, *arguments: str, clean_code: int = 0
) -> Iterator[LoaderProcess]:
    """Yield, for each step that is tried, a run of the command that hangs there."""
    for step in itertools.count(1, 1 if every_step else _STRIDE):
        loader = loaders.start(*arguments, armed=f"hang@{step}", environment=QUICK_TO_LEAVE)
        wait_for("a step", partial(meets_or_ends, loader))
        if "failpoint" not in loader.stderr:
            assert (loader.wait(), step > 1) == (clean_code, True)
            return
        yield loader


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_stopped_while_any_step_hangs_a_run_ends(
    number: signal.Signals, loaders: Loaders, small_file: Path, whole: str, every_step: bool
) -> None:
    arguments = ("run", str(small_file), "--workers", "1")
    for loader in at_each_hang(loaders, every_step, *arguments):
        loader.send(number)
        if loader.wait() == 0:  # it hung behind its commit
            assert loader.receipt().rows_published == ROWS
        else:
            is_rolled_back = number == signal.SIGTERM
            last = loader.failure()
            assert loader.wait() == (128 + number if is_rolled_back else contract.ExitCode.SUSPENDED)
            assert last.staging in ({"none"} if is_rolled_back else {"none", "kept", "unknown"})
            assert row_count(loaders.database_url) == 0
            wait_until_disconnected(loaders.database_url)
            assert_staging_is_whole(loaders.database_url)
            if not is_rolled_back:
                loaders.start(*arguments).receipt()
        if row_count(loaders.database_url):
            assert checksum(loaders.database_url) == whole
        assert_nothing_is_left(loaders.database_url)
        start_over(loaders.database_url)


def test_a_roll_back_that_hangs_at_any_step_is_given_up_and_gc_ends_it(
    loaders: Loaders, small_file: Path, every_step: bool
) -> None:
    small_file.write_bytes(small_file.read_bytes() + b"not a trip\n")
    arguments = ("run", str(small_file), "--workers", "1")
    for loader in at_each_hang(loaders, every_step, *arguments, clean_code=contract.ExitCode.DATA):
        loader.send(signal.SIGTERM)
        last = loader.failure()
        if last.staging != "none":
            assert last.failure.code in (contract.FailureCode.BAD_ROW, contract.FailureCode.CLEANUP_PENDING)
            assert "loader gc" in last.failure.hint
            wait_until_disconnected(loaders.database_url)
            assert loaders.start("gc").wait() == 0
        assert row_count(loaders.database_url) == 0
        assert_nothing_is_left(loaders.database_url)
