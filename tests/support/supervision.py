"""A supervisor with a real control DB and a real Postgres, and helpers that wait for states of its imports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import psutil
import psycopg
import uuid_utils.compat

from importer.model import FINISHED, Attempt, Import, State
from importer.settings import Settings
from importer.store.store import Store
from importer.supervisor.limits import LIMITS, SupervisorLimits
from importer.supervisor.outcome import AttemptRetryPolicy
from importer.supervisor.supervisor import Supervisor
from loader.contract import Job, Phase, Receipt
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.loader_process import assert_nothing_is_left, committed_rows, query
from tests.support.mid_load import STALL_BYTES
from tests.support.paths import PROGRAMS, ROOT

R = TypeVar("R")

# A loader with parts so small that a test's file has several, and the program of misbehaving_loader.py.
SMALL = (sys.executable, str(PROGRAMS / "small_loader.py"))
MISBEHAVING = (sys.executable, str(PROGRAMS / "misbehaving_loader.py"))

# Shorter delays for tests.
QUICK = AttemptRetryPolicy(attempts=3, first_delay_seconds=0.05)
# Delays so long that no retry starts within a test.
LATE_RETRIES = AttemptRetryPolicy(attempts=3, first_delay_seconds=1000)

# Far longer than any step takes on a busy machine.
DEADLINE_SECONDS = 120.0


async def until(what: str, probe: Callable[[], R | None]) -> R:
    """Return the first true result of `probe`; fail if there is none within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if answer := await asyncio.to_thread(probe):
            return answer
        await asyncio.sleep(0.02)  # the poll interval
    raise AssertionError(f"waited {DEADLINE_SECONDS:.0f} s for {what}")


class SupervisorHarness:
    """One control DB and its supervisor."""

    def __init__(self, store: Store, supervisor: Supervisor, database_url: str) -> None:
        self.store = store
        self.supervisor = supervisor
        self.database_url = database_url

    async def submit(self, source: str) -> UUID:
        """Submit a file, also one that was imported before."""
        job = Job(source=source, import_id=str(uuid_utils.compat.uuid7()), force=True)
        submitted, _ = await self.store.submit(job, None)
        self.supervisor.wake()
        return submitted.id

    async def get(self, import_id: UUID) -> Import:
        found = await self.store.get(import_id)
        assert found is not None
        return found

    async def attempts(self, import_id: UUID) -> list[Attempt]:
        return await self.store.attempts(import_id)

    async def exit_codes(self, import_id: UUID) -> list[int | None]:
        return [attempt.exit_code for attempt in await self.attempts(import_id)]

    async def until(self, import_id: UUID, condition: Callable[[Import], object]) -> Import:
        """Wait until an import meets a condition; fail if it finishes otherwise, disappears, or takes too long."""
        found = await self.get(import_id)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition(found):
                assert found.state not in FINISHED, f"{found.state}: {found.error}"
                changed = await self.store.wait_for_change(import_id, found.version, DEADLINE_SECONDS)
                assert changed is not None
                found = changed
        return found

    async def until_state(self, import_id: UUID, state: State) -> Import:
        return await self.until(import_id, lambda found: found.state is state)

    async def until_phase(self, import_id: UUID, phase: Phase) -> Import:
        return await self.until(import_id, lambda found: found.phase == phase)

    async def until_gone(self, import_id: UUID) -> None:
        found = await self.store.get(import_id)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while found is not None:
                found = await self.store.wait_for_change(import_id, found.version, DEADLINE_SECONDS)

    async def until_part(self) -> int:
        """Wait for a committed part; return the number of committed rows."""
        return await until("a committed part", lambda: committed_rows(self.database_url))

    async def receipt(self, import_id: UUID) -> Receipt:
        """Wait for the import to succeed."""
        receipt = (await self.until_state(import_id, State.SUCCEEDED)).receipt
        assert receipt is not None
        return receipt


@asynccontextmanager
async def supervising(
    folder: Path,
    database_url: str,
    *,
    command: Sequence[str] = SMALL,
    slots: int = 2,
    grace_seconds: int = 30,
    retry_policy: AttemptRetryPolicy = QUICK,
    limits: SupervisorLimits = LIMITS,
) -> AsyncGenerator[SupervisorHarness]:
    """Run a supervisor within the block, then stop it as a service does."""
    settings = Settings(
        folder, slots=slots, workers=1, allowed_hosts=("localhost",), grace_seconds=grace_seconds
    )
    store = await Store.open(folder / "importer.sqlite")
    try:
        supervisor = Supervisor(
            store, settings, database_url, command=command, retry_policy=retry_policy, limits=limits
        )
        try:
            await supervisor.start()
            yield SupervisorHarness(store, supervisor, database_url)
        finally:
            await supervisor.stop()
    finally:
        await store.close()
    assert children() == []


def children() -> list[psutil.Process]:
    """The loader processes of this process, zombies included."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        try:
            line = child.cmdline()
        except psutil.ZombieProcess:
            found.append(child)
            continue
        except psutil.NoSuchProcess:
            continue
        if {"run", "drop"} & set(line):
            found.append(child)
    return found


def loader() -> psutil.Process:
    """The single loader that runs an import."""
    (found,) = [child for child in children() if "run" in child.cmdline()]
    return found


def stall(server: HttpServer, at: int = STALL_BYTES) -> None:
    """Stop the server in the middle of the file."""

    def late(request: Request) -> Fault | None:
        return Fault(before="stall") if (request.first or 0) >= at else None

    server.rule = late


@contextlib.contextmanager
def holding(database_url: str, statement: str) -> Generator[psycopg.Connection]:
    """Hold the locks of a statement."""
    with psycopg.connect(database_url) as connection:
        connection.execute(statement.encode())
        yield connection


async def assert_all_gone(database_url: str) -> None:
    await asyncio.to_thread(assert_nothing_is_left, database_url)


def waits_for_lock(database_url: str) -> bool:
    statement = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return query(database_url, statement) != []


@contextlib.contextmanager
def supervisor_process(folder: Path, database_url: str) -> Generator[subprocess.Popen[bytes]]:
    """A supervisor in a separate process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.supervision", str(folder)],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def serve(folder: Path, database_url: str) -> None:
    """Run a service until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with supervising(folder, database_url):
        print("ready", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), os.environ["DATABASE_URL"]))
