"""A control DB that is full, damaged, lost or restored: no loaded row is lost or duplicated."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from loader.contract import ExitCode, Probed
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.live_service import LiveService, assert_problem
from tests.support.loader_process import (
    LoaderProcess,
    assert_nothing_is_left,
    committed_rows,
    query,
    row_count,
    wait_for,
    wait_until_disconnected,
)
from tests.support.paths import ROOT

# Real processes: some seconds each.
pytestmark = pytest.mark.slow

OPERATIONS = ROOT / "docs" / "operations.md"


@pytest.fixture
def server(sample: bytes) -> Generator[HttpServer]:
    """A server that stops in the middle of each file whose name starts with `held`."""

    def hold(request: Request) -> Fault | None:
        is_held = request.target.startswith("/held") and (request.first or 0) >= 1_500_000
        return Fault(before="stall") if is_held else None

    with HttpServer(sample) as server:
        server.rule = hold
        yield server


def let_go(server: HttpServer) -> None:
    server.rule = lambda _: None
    server.drop_connections()


def start(folder: Path, database_url: str, **environment: str) -> LiveService:
    """Start a service whose imports of the sample have several parts."""
    return LiveService(folder, database_url, environment, small=True)


def submit_held(live: LiveService, server: HttpServer) -> str:
    """Submit an import and wait for its first commit."""
    submitted = live.submit(f"{server.origin}/held.csv")
    before = committed_rows(live.database_url)
    wait_for("a committed part", lambda: committed_rows(live.database_url) > before)
    return submitted["id"]


def submit_and_kill(live: LiveService, server: HttpServer) -> str:
    """Submit an import and kill the service after the first commit."""
    running = submit_held(live, server)
    live.kill()
    return running


def submit(live: LiveService, server: HttpServer, name: str) -> str:
    submitted = live.submit(f"{server.origin}/{name}.csv")
    return live.until_state(submitted["id"], "succeeded")["id"]


def refusal(folder: Path, database_url: str, exit_code: ExitCode = ExitCode.CONFIGURATION) -> str:
    """Start a service that must refuse to start; return its stderr."""
    environment = {**os.environ, "IMPORTER_DATA_DIR": str(folder), "DATABASE_URL": database_url}
    arguments = [sys.executable, "-m", "importer", "serve", "--port", "0"]
    ended = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == exit_code
    return ended.stderr


# Full


@contextlib.contextmanager
def small_disk(folder: Path) -> Generator[Path]:
    """Yield a folder on a file system of one megabyte."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a tmpfs, on Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(disk: Path) -> Path:
    """Fill a disk; return the file that fills it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


def is_ready(live: LiveService) -> bool:
    return live.client.get("/health/ready").status_code == 200


def staged(database_url: str) -> list[str]:
    """The ids of the imports that have staging."""
    found = query(database_url, "SELECT id::text FROM loader.import WHERE state <> 'published'")
    return [str(import_id) for (import_id,) in found]


def test_a_full_disk_refuses_new_imports_and_running_ones_succeed_later(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        start(tmp_path, database_url, IMPORTER_DATA_DIR=str(disk)) as live,
    ):
        running = submit_held(live, server)
        assert is_ready(live)
        ballast = fill_up(disk)
        url = f"{server.origin}/new.csv"
        for _ in range(3):
            problem = assert_problem(live.client.post("/imports", json={"url": url}), 507, "control_db_full")
            assert str(disk) in problem["detail"]
        wait_for("readiness to look again", lambda: not is_ready(live))
        problem = assert_problem(live.client.get("/health/ready"), 503, "not_ready")
        assert str(disk) in problem["detail"]
        let_go(server)
        wait_for("the rows", lambda: row_count(database_url) == SAMPLE_ROWS)
        assert live.get(running)["state"] == "running"  # its success could not be recorded
        ballast.unlink()
        live.until_state(running, "succeeded")
        wait_for("readiness to look again", lambda: is_ready(live))
        submit(live, server, "new")
    assert row_count(database_url) == 2 * SAMPLE_ROWS
    assert_nothing_is_left(database_url)


def test_a_cancel_on_a_full_disk_stops_the_loader_and_is_recorded_later(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        start(tmp_path, database_url, IMPORTER_DATA_DIR=str(disk), IMPORTER_SLOTS="1") as live,
    ):
        running = submit_held(live, server)
        queued = live.submit(f"{server.origin}/new.csv")["id"]
        ballast = fill_up(disk)
        for _ in range(2):
            problem = assert_problem(live.client.post(f"/imports/{running}/cancel"), 507, "control_db_full")
            assert "rolls back anyway" in problem["detail"]
        problem = assert_problem(live.client.post(f"/imports/{queued}/cancel"), 507, "control_db_full")
        assert "rolls back anyway" not in problem["detail"]
        wait_for("the roll back", lambda: staged(database_url) == [])
        assert live.get(running)["state"] == "running"
        ballast.unlink()
        live.until_state(running, "cancelled")
        (attempt,) = live.client.get(f"/imports/{running}/attempts").json()["attempts"]
        assert attempt["exit_code"] == 143
        live.until_state(queued, "succeeded")
    assert row_count(database_url) == SAMPLE_ROWS
    assert_nothing_is_left(database_url)


def test_an_unrecorded_cancel_is_lost_by_a_restart_and_can_be_repeated(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """As the problem's hint says: the import starts over."""
    with small_disk(tmp_path / "disk") as disk:
        live = start(tmp_path, database_url, IMPORTER_DATA_DIR=str(disk))
        running = submit_held(live, server)
        ballast = fill_up(disk)
        assert_problem(live.client.post(f"/imports/{running}/cancel"), 507, "control_db_full")
        wait_for("the roll back", lambda: staged(database_url) == [])
        live.kill()
        ballast.unlink()
        with start(tmp_path, database_url, IMPORTER_DATA_DIR=str(disk)) as live:
            wait_for("the next attempt", lambda: committed_rows(database_url) > 0)
            assert live.client.post(f"/imports/{running}/cancel").status_code == 202
            live.until_state(running, "cancelled")
    assert row_count(database_url) == 0
    assert_nothing_is_left(database_url)


def test_a_full_disk_at_startup_has_a_retryable_exit_code(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        running = submit_and_kill(start(tmp_path, database_url, IMPORTER_DATA_DIR=str(disk)), server)
        ballast = fill_up(disk)
        assert str(disk) in refusal(disk, database_url, ExitCode.OUT_OF_SPACE)
        ballast.unlink()
        let_go(server)
        with start(tmp_path, database_url, IMPORTER_DATA_DIR=str(disk)) as live:
            live.until_state(running, "succeeded")


def test_a_locked_control_db_at_startup_has_a_retryable_exit_code(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    running = submit_and_kill(start(tmp_path, database_url), server)
    with contextlib.closing(sqlite3.connect(tmp_path / "importer.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "importer.sqlite" in refusal(tmp_path, database_url, ExitCode.SUSPENDED)
    let_go(server)
    with start(tmp_path, database_url) as live:
        live.until_state(running, "succeeded")


# Damaged


def damage(path: Path) -> bytes:
    """Overwrite all pages except the first, which has the schema; return the file's content."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    return path.read_bytes()


def test_a_damaged_control_db_is_refused_at_startup_and_unchanged(tmp_path: Path, database_url: str) -> None:
    with start(tmp_path, database_url):
        pass
    content = damage(tmp_path / "importer.sqlite")
    said = refusal(tmp_path, database_url)
    assert "is damaged" in said
    assert "not changed" in said
    assert (tmp_path / "importer.sqlite").read_bytes() == content


def test_a_control_db_damaged_while_in_use_is_reported_and_unchanged(
    tmp_path: Path, database_url: str
) -> None:
    path = tmp_path / "importer.sqlite"
    with start(tmp_path, database_url) as live:
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = damage(path)
        assert_problem(live.client.get("/imports"), 500, "control_db_unusable")
        answer = live.client.post("/imports", json={"url": "http://localhost/trips.csv"})
        assert_problem(answer, 500, "control_db_unusable")
        assert_problem(live.client.get("/health/ready"), 503, "not_ready")
        assert live.client.get("/health/live").status_code == 200
    assert path.read_bytes() == content
    assert "is damaged" in refusal(tmp_path, database_url)


# Restored or lost, by the commands of docs/operations.md


def commands(number: int, folder: Path, backups: Path) -> str:
    """Return the n-th block of commands in the section on the control DB, with these folders."""
    section = OPERATIONS.read_text().split("## The control DB\n")[1].split("\n## ")[0]
    block = re.findall(r"```\n(.*?)```", section, re.DOTALL)[number]
    return block.replace("/var/lib/importer", str(folder)).replace("/backup", str(backups))


def run(script: str) -> None:
    """Run commands in a shell, with the Python of the tests as python3."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-ec", script], env={**os.environ, "PATH": path}, check=True, timeout=60)


def test_a_backup_taken_while_imports_run_is_restored_and_they_resume(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    with start(tmp_path, database_url) as live:
        before = submit(live, server, "before")
        published_since = submit_held(live, server)
        run(commands(0, tmp_path, backups))
        let_go(server)
        live.until_state(published_since, "succeeded")
        unknown = submit(live, server, "since")
    assert (backups / "importer.sqlite").stat().st_mode & 0o077 == 0
    run(commands(1, tmp_path, backups))
    with start(tmp_path, database_url) as live:
        assert live.get(before)["receipt"]["rows_published"] == SAMPLE_ROWS
        assert live.until_state(published_since, "succeeded")["receipt"]["rows_published"] == SAMPLE_ROWS
        assert_problem(live.client.get(f"/imports/{unknown}"), 404, "import_not_found")
        submit(live, server, "afterwards")
    assert row_count(database_url) == 4 * SAMPLE_ROWS
    assert_nothing_is_left(database_url)


def test_two_services_with_copies_of_one_control_db_load_no_row_twice(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The data folder was copied, and both services run: an import has one loader at a time."""
    backups = tmp_path / "backups"
    backups.mkdir()
    with start(tmp_path, database_url) as live:
        running = submit_held(live, server)
        run(commands(0, tmp_path, backups))
        with start(backups, database_url, IMPORTER_DATA_DIR=str(backups)) as copy:
            copy.until_phase(running, "probing")
            let_go(server)
            receipts = [each.until_state(running, "succeeded")["receipt"] for each in (live, copy)]
            assert receipts[0] == receipts[1]
            removal = copy.client.delete(f"/imports/{running}", params={"rows": "drop"})
            assert removal.status_code == 202
            copy.until_gone(running)
        assert live.get(running)["state"] == "succeeded"  # it does not learn of the other service
    assert row_count(database_url) == 0
    assert_nothing_is_left(database_url)


def test_imports_resume_from_the_ledger_after_the_control_db_is_lost(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    live = start(tmp_path, database_url)
    with live.client:
        published = submit(live, server, "published")
        begun = submit_held(live, server)
        live.process.kill()
        live.process.wait()
    wait_until_disconnected(database_url)  # its loader suspends
    for file in tmp_path.glob("importer.sqlite*"):
        file.unlink()
    with start(tmp_path, database_url) as live:
        assert live.client.get("/imports").json()["imports"] == []
        known = query(database_url, "SELECT id::text, state FROM loader.import ORDER BY import_key")
        assert known == [(published, "published"), (begun, "loading")]

        again = live.submit(f"{server.origin}/published.csv")
        error = live.until_state(again["id"], "failed")["error"]
        assert error["code"] == "already_imported"
        assert published in error["message"]

        let_go(server)
        by_hand = LoaderProcess(
            tmp_path, "run", f"{server.origin}/held.csv", database_url=database_url, small=True
        )
        receipt = by_hand.receipt()
        (probed,) = [each for each in by_hand.messages() if isinstance(each, Probed)]
        assert (str(receipt.import_id), probed.resumed, receipt.attempts) == (begun, True, 2)
        assert receipt.rows_published == SAMPLE_ROWS
    assert row_count(database_url) == 2 * SAMPLE_ROWS
    assert_nothing_is_left(database_url)


@pytest.mark.long
def test_staging_without_a_record_is_dropped_and_its_file_loaded_again(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    with start(tmp_path, database_url) as live:
        begun = submit_held(live, server)
    for file in tmp_path.glob("importer.sqlite*"):
        file.unlink()
    let_go(server)
    with start(tmp_path, database_url) as live:
        assert LoaderProcess(tmp_path, "drop", begun, database_url=database_url).wait() == 0
        submit(live, server, "held")
    assert row_count(database_url) == SAMPLE_ROWS
    assert_nothing_is_left(database_url)
