"""Stopped, killed and failing processes of a running service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loader.contract import ExitCode
from loader.embedded.server import embedded_server
from tests.conftest import SAMPLE_ROWS
from tests.support.crashing_postgres import CrashingPostgres
from tests.support.http_server import HttpServer
from tests.support.live_service import LiveService
from tests.support.loader_process import assert_nothing_is_left, committed_rows, row_count, wait_for
from tests.support.mid_load import resume_serving
from tests.support.supervision import stall

pytestmark = pytest.mark.slow

STOPPED_SECONDS = 30.0


@pytest.mark.long
def test_a_service_stopped_by_sigstop_delays_no_loader_and_kills_none(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    """The service is stopped for longer than its limit on silent loaders, while both imports are published."""
    stall(server)
    environment = {"SMALL_SERVICE_SILENCE_SECONDS": "10"}
    with LiveService(tmp_path, database_url, environment, small=True) as live:
        import_ids = [str(live.submit(server.url, force=True)["id"]) for _ in range(2)]
        for import_id in import_ids:
            live.until_phase(import_id, "loading")
        wait_for("a part", lambda: committed_rows(database_url))
        live.process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + STOPPED_SECONDS
        resume_serving(server)
        wait_for("both publishes", lambda: row_count(database_url) == 2 * SAMPLE_ROWS)
        time.sleep(max(0.0, until - time.monotonic()))  # the test needs the time itself
        live.process.send_signal(signal.SIGCONT)
        for import_id in import_ids:
            assert live.until_state(import_id, "succeeded")["attempts"] == 1
    assert_nothing_is_left(database_url)


def test_a_service_continues_after_its_embedded_server_is_killed(tmp_path: Path, server: HttpServer) -> None:
    stall(server)
    with LiveService(tmp_path, "", small=True) as live, embedded_server(tmp_path) as database_url:
        import_id = str(live.submit(server.url)["id"])
        wait_for("a part", lambda: committed_rows(database_url))
        CrashingPostgres(tmp_path, database_url).postmaster().kill()
        resume_serving(server)
        found = live.until_state(import_id, "succeeded")
        assert found["receipt"]["rows_published"] == row_count(database_url) == SAMPLE_ROWS
        assert live.client.get("/health/ready").status_code == 200
        assert_nothing_is_left(database_url)


def test_a_service_with_an_unhandled_error_stops_in_order_with_exit_70(
    tmp_path: Path, database_url: str
) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "IMPORTER_DATA_DIR": str(tmp_path),
        "IMPORTER_PORT": "0",
        "IMPORTER_FAILPOINT": "error@2",  # the first step after the start, in the reconciler
    }
    service = subprocess.run(
        [sys.executable, "-m", "importer", "serve"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert service.returncode == ExitCode.INTERNAL
    assert "a failpoint's error" in service.stderr
    assert "loaders keep what is committed" in service.stderr
    assert service.stderr.splitlines()[-2].startswith("internal_error: ")
