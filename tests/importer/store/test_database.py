"""The control DB's file: its lock, kill -9, permissions, damage, migrations, a full disk, cancelled callers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from importer.model import FINISHED, AttemptResult, Import, State
from importer.store.database import MIGRATIONS
from importer.store.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreNewer
from importer.store.store import Store
from tests.support.paths import ROOT
from tests.support.store_driver import FAILURE, PROGRESS, brought_to, existing, finished, job, submitted

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.db"


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[Store]:
    opened = await Store.open(path)
    yield opened
    await opened.close()


async def test_a_second_service_is_refused_until_the_first_has_ended(path: Path) -> None:
    first = await Store.open(path)
    with pytest.raises(StoreLocked) as refused:
        await Store.open(path)
    assert str(path) in refused.value.message
    one = await submitted(first)
    await first.close()
    second = await Store.open(path)
    assert await second.get(one.id) == one
    await second.close()


async def test_a_loader_that_outlives_the_service_holds_no_lock(path: Path) -> None:
    first = await Store.open(path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    await first.close()
    second = await Store.open(path)
    await second.close()
    child.communicate()


async def test_a_killed_service_leaves_its_committed_changes_and_no_lock(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.importer.store.test_database", str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    running, queued = child.stdout.readline().split()
    with pytest.raises(StoreLocked):
        await Store.open(path)
    child.kill()
    child.communicate()

    store = await Store.open(path)
    (left,) = await store.unfinished()
    assert (left.id, left.state, left.phase) == (UUID(running), State.RUNNING, "loading")
    assert left.progress == PROGRESS
    assert existing(await store.get(UUID(queued))).state is State.QUEUED
    back = existing(await store.finish_attempt(left.id, AttemptResult(state=State.QUEUED)))
    assert (back.attempt_count, back.retry_count) == (1, 0)
    assert existing(await store.claim()).id == left.id  # older than the one that never ran
    assert [attempt.finished_at is None for attempt in await store.attempts(left.id)] == [False, True]
    await store.close()


async def test_only_their_owner_can_read_the_files(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "control.db"
    before = os.umask(0)
    try:
        store = await Store.open(path)
        await submitted(store)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        await store.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(
        ["control.db", "control.db-shm", "control.db-wal", "control.db.lock"], 0o600
    )
    path.chmod(0o644)  # as a restored copy may be
    await (await Store.open(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_is_not_a_database_is_refused_and_unchanged(path: Path) -> None:
    path.write_bytes(b"import,state\n1,queued\n" * 1000)
    await refused_and_kept(path, StoreCorrupt)


async def test_a_damaged_database_is_refused_and_unchanged(path: Path) -> None:
    await make_database(path)
    content = bytearray(path.read_bytes())
    page_bytes = 4096
    for page in range(2, len(content) // page_bytes):  # all but the schema
        content[page * page_bytes : page * page_bytes + 100] = b"\xff" * 100
    path.write_bytes(content)
    await refused_and_kept(path, StoreCorrupt)


async def test_a_truncated_database_is_refused_and_unchanged(path: Path) -> None:
    await make_database(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    await refused_and_kept(path, StoreCorrupt)


@pytest.mark.parametrize(
    "damage",
    [
        "job = CAST(x'7b2263616e617279ff' AS TEXT)",  # canary, and no UTF-8
        "job = '{\"canary'",
        'job = \'{"source": ["canary"]}\'',
        "progress = '[]'",
        "created_at = 'canary'",
    ],
)
async def test_a_damaged_row_is_reported_without_its_content(store: Store, path: Path, damage: str) -> None:
    whole, damaged = await submitted(store), await submitted(store)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(f"UPDATE import SET {damage} WHERE id = ?", [str(damaged.id)])
    for look in (
        store.get(damaged.id),
        store.page(limit=10, before_sequence=None),
        store.request_cancel(damaged.id),
    ):
        with pytest.raises(StoreCorrupt) as told:
            await look
        assert str(path) in told.value.message
        assert "canary" not in "".join(traceback.format_exception(told.value))
    assert await store.get(whole.id) == whole
    assert existing(await store.claim()).id == whole.id


async def test_a_database_of_a_newer_version_is_refused_and_unchanged(path: Path) -> None:
    await make_database(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    await refused_and_kept(path, StoreNewer)


async def test_a_database_of_the_current_version_is_not_migrated(path: Path) -> None:
    await make_database(path)
    store = await Store.open(path)
    assert sum((await store.counts()).values()) == 20
    await store.close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


STATES_BEFORE = [
    ("succeeded", 1, None, '{"receipt": 1}', None),
    ("failed", 10, FAILURE, None, None),
    ("failed", 1, msgspec.structs.replace(FAILURE, retryable=False), None, None),
    ("cancelled", 0, None, None, None),
    ("running", 2, None, None, "loading"),
    ("queued", 3, FAILURE, None, None),
]
TIME = "2024-02-01T12:00:00.000000+00:00"


def make_database_of_version_1(path: Path) -> None:
    """Create a file of version 1: imports in six states, their attempts, and the gap of a deleted import."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA foreign_keys = ON; {MIGRATIONS[0]}; PRAGMA user_version = 1")
        for number, (state, attempts, error, receipt, phase) in enumerate(STATES_BEFORE, 1):
            connection.execute(
                "INSERT INTO import VALUES (?, ?, ?, ?, ?, 7, ?, NULL, ?, 0, ?, ?, ?, NULL, ?, ?)",
                [
                    number,
                    str(UUID(int=number)),
                    f"key {number}",
                    msgspec.json.encode(job()).decode(),
                    state,
                    phase,
                    attempts,
                    TIME,
                    TIME if attempts else None,
                    TIME if state in FINISHED else None,
                    error and msgspec.json.encode(error).decode(),
                    receipt,
                ],
            )
            for attempt in range(1, attempts + 1):
                connection.execute(
                    "INSERT INTO attempt VALUES (?, ?, ?, ?, NULL, NULL, 'log')",
                    [number, attempt, TIME, None if (state, attempt) == ("running", attempts) else TIME],
                )
        connection.execute(
            "INSERT INTO import SELECT 42, 'x', 'x', job, 'cancelled', 1, NULL, NULL, 0, 0, ?, NULL, ?,"
            " NULL, NULL, NULL FROM import WHERE sequence = 1",
            [TIME, TIME],
        )
        connection.execute("DELETE FROM import WHERE sequence = 42")


def dump(path: Path, table: str, columns: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()


COLUMNS_BEFORE = (
    "sequence, id, idempotency_key, job, state, version, phase, progress, attempt_count, retry_count, created_at,"
    " started_at, finished_at, not_before, error, receipt"
)


async def test_a_database_of_version_1_is_migrated_with_all_imports_and_attempts(path: Path) -> None:
    make_database_of_version_1(path)
    imports, attempts = dump(path, "import", COLUMNS_BEFORE), dump(path, "attempt", "*")
    assert len(attempts) == 17
    store = await Store.open(path)
    assert dump(path, "import", COLUMNS_BEFORE) == imports
    assert dump(path, "attempt", "*") == attempts
    assert dump(path, "pragma_foreign_key_check", "*") == []
    assert dump(path, "import", "sequence, keeps_staging, locked_count") == [
        (number, int(number == 2), 0) for number in range(1, 7)
    ]

    assert (await submitted(store)).sequence == 43  # a number is never used again
    failed = UUID(int=2)
    assert len(await store.attempts(failed)) == 10
    await store.request_removal(failed, drops_rows=True)
    assert await store.delete(failed)
    assert await store.attempts(failed) == []
    await store.close()
    assert len(dump(path, "attempt", "*")) == 7  # foreign keys are enforced
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE import SET phase = 'indexing', error = '{}' WHERE state = 'running'")


async def test_a_database_of_version_2_keeps_its_imports_and_takes_labels(path: Path) -> None:
    make_database_of_version_1(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript(f"{MIGRATIONS[1]}; PRAGMA user_version = 2")
        columns = [name for _, name, *_ in other.execute("PRAGMA table_info(import)")]
    imports, attempts = dump(path, "import", ", ".join(columns)), dump(path, "attempt", "*")
    store = await Store.open(path)
    assert dump(path, "import", ", ".join(columns)) == imports
    assert dump(path, "attempt", "*") == attempts
    labelled, _ = await store.submit(job(), None, "January")
    assert await store.page(limit=10, label="January") == [labelled]
    assert existing(await store.get(UUID(int=3))).label is None
    await store.close()


async def test_a_version_that_a_power_cut_undid_is_not_given_again(path: Path) -> None:
    store = await Store.open(path)
    running = await brought_to(store, State.RUNNING)
    await store.skip_lost_versions()
    after = existing(await store.get(running.id))
    assert after.version > running.version + 999  # as many reports may be lost
    assert msgspec.structs.replace(after, version=running.version) == running
    await store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "INSERT INTO attempt SELECT 99, number, started_at, finished_at, exit_code, error, log FROM attempt LIMIT 1",
        "UPDATE import SET error = 'no JSON' WHERE state = 'failed'",
    ],
    ids=["an attempt without import", "a row that can't be migrated"],
)
async def test_a_migration_that_fails_changes_nothing(path: Path, damage: str) -> None:
    make_database_of_version_1(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(damage)
    imports, attempts = dump(path, "import", "*"), dump(path, "attempt", "*")
    with pytest.raises(StoreError) as refused:
        await Store.open(path)
    assert str(path) in refused.value.message
    assert dump(path, "import", "*") == imports
    assert dump(path, "attempt", "*") == attempts
    assert dump(path, "pragma_user_version", "user_version, 1") == [(1, 1)]


async def make_database(path: Path) -> None:
    store = await Store.open(path)
    for _ in range(20):
        await submitted(store)
    await store.close()
    assert not path.with_name("control.db-wal").exists()


async def refused_and_kept(path: Path, why: type[StoreError]) -> None:
    content = path.read_bytes()
    for _ in range(2):  # the refused open holds no lock
        with pytest.raises(why) as refused:
            await Store.open(path)
        assert str(path) in refused.value.message
    assert path.read_bytes() == content


async def test_an_unusable_folder_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as refused:
        await Store.open(tmp_path / "file" / "control.db")
    assert str(tmp_path / "file") in refused.value.message


async def test_a_full_disk_refuses_writes_and_allows_reads(store: Store, path: Path) -> None:
    running = await brought_to(store, State.RUNNING)
    with disk_limit(path.with_name("control.db-wal").stat().st_size + 2048):
        for _ in range(3):
            with pytest.raises(StoreFull):
                await submitted(store)
            with pytest.raises(StoreFull):
                await store.report(running.id, "loading", PROGRESS)
        assert await store.get(running.id) == running
        assert await store.page(limit=10, before_sequence=None) == [running]
    assert existing(await finished(store, running, State.SUCCEEDED)).version == running.version + 1
    assert existing(await store.get((await submitted(store)).id)).state is State.QUEUED


@contextmanager
def disk_limit(size_bytes: int) -> Generator[None]:
    """Limit the size of this process's files, which SQLite reports as a full disk, as it does with a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_lock_of_another_program_does_not_block_reads(store: Store, path: Path) -> None:
    one = await submitted(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        cancel = asyncio.create_task(store.request_cancel(one.id))
        reads = 0
        while not cancel.done():
            assert await store.get(one.id) == one
            reads += 1
            await asyncio.sleep(0.01)
        with pytest.raises(StoreBusy):
            await cancel
        assert reads > 10
    assert existing(await store.request_cancel(one.id)).state is State.CANCELLED


@pytest.mark.parametrize("damage", ["damaged", "newer", "locked", "unclosed", "cancelled"])
def test_a_process_whose_open_fails_or_is_cancelled_exits(path: Path, damage: str) -> None:
    """An open aiosqlite connection keeps the process alive, since its thread is not a daemon."""
    with closing(sqlite3.connect(path)) as other:
        if damage == "newer":
            other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        if damage == "locked":
            other.execute("BEGIN EXCLUSIVE")
        if damage == "damaged":
            path.write_bytes(b"import,state\n1,queued\n" * 1000)
        program = ["-m", "tests.importer.store.test_database", str(path), damage]
        ended = subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


async def test_an_open_that_is_cancelled_at_any_moment_leaves_no_thread_and_no_lock(path: Path) -> None:
    await make_database(path)
    threads = set(threading.enumerate())
    began = time.perf_counter()
    await (await Store.open(path)).close()
    duration_seconds = time.perf_counter() - began
    for number in range(30):
        opening = asyncio.create_task(Store.open(path))
        await asyncio.sleep(duration_seconds * number / 20)  # the test varies the moment
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await opening).close()
    await (await Store.open(path)).close()  # the lock is free
    async with asyncio.timeout(30):
        while set(threading.enumerate()) - threads:
            await asyncio.sleep(0.01)


async def test_cancelled_callers_leave_no_open_transaction_and_consistent_counts(
    store: Store, path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    returned: list[Import] = []

    async def call(key: str, state: State) -> None:
        one, _ = await store.submit(job("https://example.org/a"), key)
        returned.append(one)
        found = await store.claim()
        if found is not None:
            returned.append(found)
            found = await store.report(found.id, "loading", PROGRESS)
        if found is not None:
            returned.append(found)
            await store.counts()
            found = await store.request_cancel(found.id) if state is State.CANCELLED else found
        if found is not None:
            found = await finished(store, found, state)
        if found is not None:
            returned.append(found)
        await store.page(limit=10, before_sequence=None)

    async def cancel(call: asyncio.Task[None], delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        call.cancel()

    states = [State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED]
    calls = [asyncio.create_task(call(f"key {number % 250}", chance.choice(states))) for number in range(500)]
    cancels = [asyncio.create_task(cancel(each, chance.uniform(0, 1))) for each in chance.sample(calls, 400)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(*cancels)
    assert {type(each) for each in ended} <= {type(None), asyncio.CancelledError}
    assert any(isinstance(each, asyncio.CancelledError) for each in ended)
    await store.require_writable()  # runs after all started transactions

    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        counts = dict(other.execute("SELECT state, count(*) FROM import GROUP BY state"))
        assert counts == {state: count for state, count in (await store.counts()).items() if count}
        assert other.execute(
            "SELECT count(*) FROM import WHERE attempt_count <> (SELECT count(*) FROM attempt"
            " WHERE import_sequence = sequence) OR (state IN ('running', 'cancelling')) <>"
            " EXISTS (SELECT 1 FROM attempt WHERE import_sequence = sequence AND finished_at IS NULL)"
        ).fetchone() == (0,)
        other.execute("ROLLBACK")
        busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy  # no read is open either
    for one in returned:
        assert existing(await store.get(one.id)).version >= one.version


async def open_and_fail(path: Path, damage: str) -> None:
    """Run a process that fails to open the control DB, leaves it open, or cancels the open."""
    opening = asyncio.create_task(Store.open(path))
    if damage == "cancelled":
        await asyncio.sleep(0.001)
        opening.cancel()
    with contextlib.suppress(StoreError, asyncio.CancelledError):
        await opening


async def serve_until_killed(path: Path) -> None:
    """Run a service with a running and a queued import until it is killed."""
    store = await Store.open(path)
    running = await brought_to(store, State.RUNNING)
    queued = await submitted(store)
    print(running.id, queued.id, flush=True)
    sys.stdin.read()  # ends with the test's process


if __name__ == "__main__":
    if len(sys.argv) == 2:
        asyncio.run(serve_until_killed(Path(sys.argv[1])))
    else:
        asyncio.run(open_and_fail(Path(sys.argv[1]), sys.argv[2]))
