"""One loader process: its messages, its log, signals, hangs and its end, however it misbehaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from uuid import UUID

import msgspec
import psutil
import pytest

from importer.supervisor.limits import SupervisorLimits
from importer.supervisor.loaders import Loaders, loader_environment
from importer.supervisor.log_tail import LOG_BYTES
from importer.supervisor.outcome import LoaderExit
from importer.supervisor.process import LoaderProcess
from loader.contract import Failed, FailureCode, Job
from tests.support.paths import PROGRAMS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DATABASE_URL = "postgresql://me:hunter2-canary@db.example/taxi"
MISBEHAVING = Loaders(
    DATABASE_URL,
    workers=3,
    allowed_hosts=("10.0.0.0/8",),
    command=(sys.executable, str(PROGRAMS / "misbehaving_loader.py")),
    read_timeout_seconds=60,
)
# Far longer than any of these takes.
PATIENCE_SECONDS = 30.0


def start(behaviour: str, **limits: int) -> LoaderProcess:
    loaders = msgspec.structs.replace(MISBEHAVING, limits=SupervisorLimits(**limits))
    return loaders.run(Job(source=f"https://example.org/{behaviour}", import_id="1"))


async def end_of(process: LoaderProcess) -> LoaderExit:
    async with asyncio.timeout(PATIENCE_SECONDS):
        end = await process.end()
    assert process.process_id is None or not psutil.pid_exists(process.process_id)
    return end


async def until_it_reports(process: LoaderProcess) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while process.progress is None:
            await process.changed.wait()
            process.changed.clear()


async def test_the_exit_has_the_last_message_the_exit_code_and_the_log() -> None:
    end = await end_of(start("fails"))
    assert isinstance(end.last, Failed)
    assert (end.exit_code, end.last.failure.code, end.last.staging) == (65, FailureCode.BAD_ROW, "none")
    assert await end_of(start("exits?7")) == LoaderExit(7, None, "that is all\n")
    assert await end_of(start(f"dies?{signal.SIGKILL}")) == LoaderExit(-9, None, "")


async def test_unknown_messages_are_ignored_and_other_text_is_logged() -> None:
    process = start("writes_unknown_messages")
    end = await end_of(process)
    assert isinstance(end.last, Failed)
    assert process.progress is not None
    assert process.progress.phase == "publishing"
    assert end.log.startswith("not JSON\n")
    assert "weather" not in end.log


async def test_a_flood_of_output_is_read_and_not_kept() -> None:
    process = start(f"floods?{20_000_000}")
    longest = 0.0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not process.has_ended:
            began = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.01)
    end = await end_of(process)
    assert longest < 5  # the event loop is never blocked
    assert isinstance(end.last, Failed)
    assert process.progress is not None
    assert process.progress.progress.rows_loaded == 19_999  # the latest counts
    assert len(end.log) == LOG_BYTES
    assert end.log.endswith("y" * 1000 + "the very end\n")


async def test_a_line_of_megabytes_is_logged_only_by_its_end() -> None:
    end = await end_of(start(f"writes_a_long_line?{5_000_000}"))
    assert isinstance(end.last, Failed)
    assert (len(end.log), end.log[-1]) == (LOG_BYTES, "\n")


async def test_a_child_that_holds_the_loaders_pipes_only_delays_the_end() -> None:
    end = await end_of(start("leaves_a_child"))
    child = psutil.Process(int(end.log))
    assert child.is_running()
    child.kill()
    assert isinstance(end.last, Failed)
    assert end.exit_code == 65


async def test_a_loader_may_end_before_it_reads_its_job() -> None:
    loaders = Loaders(DATABASE_URL, command=("/bin/sh", "-c", "exit 3"))
    assert await end_of(loaders.run(Job(source="https://example.org/", import_id="1"))) == LoaderExit(
        3, None, ""
    )


async def test_a_missing_program_is_reported_as_an_exit() -> None:
    end = await end_of(Loaders(DATABASE_URL, command=("/nowhere/loader",)).run(Job(source="x")))
    assert (end.exit_code, end.last) == (None, None)
    assert "No such file" in end.log


async def test_a_roll_back_sends_sigterm() -> None:
    process = start("waits")
    await until_it_reports(process)
    process.roll_back(PATIENCE_SECONDS)
    assert (await end_of(process)).exit_code == -signal.SIGTERM


async def test_a_loader_that_ignores_sighup_suspends_at_the_end_of_stdin() -> None:
    process = start("waits")
    await until_it_reports(process)
    process.suspend(PATIENCE_SECONDS)
    assert (await end_of(process)).exit_code == 75


@pytest.mark.parametrize("how", ["roll_back", "suspend"])
async def test_a_loader_that_ignores_signals_is_killed_after_the_grace(how: str) -> None:
    process = start("ignores_signals")
    await until_it_reports(process)
    process.roll_back(0.2) if how == "roll_back" else process.suspend(0.2)
    assert (await end_of(process)).exit_code == -signal.SIGKILL


async def test_a_stopped_loader_is_killed_after_the_grace() -> None:
    process = start("waits")
    await until_it_reports(process)
    assert process.process_id is not None
    os.kill(process.process_id, signal.SIGSTOP)
    while psutil.Process(process.process_id).status() != psutil.STATUS_STOPPED:
        await asyncio.sleep(0.01)
    process.roll_back(0.2)
    assert (await end_of(process)).exit_code == -signal.SIGKILL


async def test_a_loader_that_is_silent_for_too_long_is_killed() -> None:
    end = await end_of(start("is_silent", silence_seconds=2))
    assert (end.exit_code, end.was_silent) == (-signal.SIGKILL, True)


async def sixty_reports(process: LoaderProcess) -> None:
    """Wait for three seconds or more."""
    for _ in range(60):
        await process.changed.wait()
        process.changed.clear()


async def test_a_loader_that_reports_is_not_silent() -> None:
    process = start("waits", silence_seconds=2)
    await sixty_reports(process)
    assert not process.has_ended
    process.kill()
    assert not (await end_of(process)).was_silent


async def test_a_loader_without_progress_for_too_long_is_killed() -> None:
    end = await end_of(start("waits", stall_seconds=2))
    assert (end.exit_code, end.was_silent, end.was_stalled) == (-signal.SIGKILL, False, True)


async def test_a_loader_that_builds_indexes_may_report_the_same_numbers() -> None:
    process = start("waits?indexing", stall_seconds=2)
    await sixty_reports(process)
    assert not process.has_ended
    process.kill()
    assert not (await end_of(process)).was_stalled


async def test_signals_after_the_end_reach_no_process() -> None:
    process = start("fails")
    await end_of(process)
    process.kill()
    process.roll_back(0)
    process.suspend(0)
    await asyncio.sleep(0)  # runs the delayed kills


async def test_signals_at_the_moment_of_the_end_reach_no_other_process() -> None:
    for _ in range(20):
        process = start("fails")
        while not process.has_ended:
            process.kill()
            await asyncio.sleep(0)
        assert (await end_of(process)).exit_code in (65, -signal.SIGKILL)


async def test_a_loader_inherits_only_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "HTTPS_PROXY", "IMPORTER_PORT", "LOADER_FAILPOINT"):
        monkeypatch.setenv(name, "hunter2-canary")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/cache")
    told = json.loads((await end_of(start("prints_its_environment"))).log)
    assert "hunter2-canary" not in json.dumps(told)
    assert told["environment"]["NUMBA_CACHE_DIR"] == "/cache"
    assert told["environment"]["PATH"] == os.environ["PATH"]
    assert told["arguments"][1:] == ["run", "--progress", "json"]
    assert told["session"] is True
    assert told["files"] == ["0", "1", "2", "3"]  # 3: of the listing itself


async def test_secrets_in_a_loaders_output_are_not_logged() -> None:
    source = "https://me:pass-canary@example.org/quotes_its_job?signature=query-canary"
    end = await end_of(MISBEHAVING.run(Job(source=source, import_id="1")))
    assert "canary" not in end.log
    assert '"workers":3' in end.log  # the rest is logged
    assert '"allowed_hosts":["10.0.0.0/8"]' in end.log
    assert 'out_seconds":60' in end.log  # the name of read_timeout_seconds has the user's, me


async def test_a_drop_gets_the_database_url_in_its_environment() -> None:
    command = ("/bin/sh", "-c", 'echo "$0 $@ $DATABASE_URL"; cat; exit 4')
    loaders = Loaders("postgresql://me@db.example/taxi-canary", command=command)
    end = await end_of(loaders.drop(UUID(int=1), published=True))
    assert end == LoaderExit(4, None, f"drop {UUID(int=1)} --published ***\n")


def test_environment_variables_are_inherited_by_name() -> None:
    environment = {"PGSSLROOTCERT": "a", "LC_ALL": "C", "HOMEBREW": "b", "http_proxy": "c", "HOME": "d"}
    assert loader_environment(environment) == {"PGSSLROOTCERT": "a", "LC_ALL": "C", "HOME": "d"}
