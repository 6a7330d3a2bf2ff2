"""Whatever is killed at random moments, again and again: in the end exactly the rows of each file are there, each once.

The seed is printed; RANDOM_KILLS_SEED repeats its choices (not the machine's timing).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import psycopg
import pytest
from conftest import SAMPLE_ROWS
from http_server import HttpServer
from loader_process import checksum_of, query, wait_for
from restarted_service import RestartedService, assert_all_agree, restarted_service

from loader import coverage, ledger
from loader.embedded import embedded_server

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = 120
CRASHES = 30
# Two slots, each with one that waits behind it.
AT_ONCE = 4


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("RANDOM_KILLS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"RANDOM_KILLS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def data(tmp_path: Path) -> Generator[tuple[Path, str]]:
    """The folder and the URL of a PostgreSQL of the test's own, which it may kill."""
    folder = tmp_path / "postgres"
    with embedded_server(folder) as url:
        yield folder, url


class Imports:
    """Some imports that are always under way, and those that have ended."""

    def __init__(self, service: RestartedService, server: HttpServer) -> None:
        self._service = service
        self._server = server
        self.waiting: list[str] = []
        self.succeeded = 0

    def refill(self) -> None:
        """Submit as many as have ended."""
        ended = [each for each in self.waiting if self._state(each) == "succeeded"]
        self.succeeded += len(ended)
        self.waiting = [each for each in self.waiting if each not in ended]
        while len(self.waiting) < AT_ONCE:
            key = {"Idempotency-Key": f"{self.succeeded}-{len(self.waiting)}-{time.monotonic_ns()}"}
            answer = self._service.ask(lambda live: live.submit(self._server.url, key, force=True))  # noqa: B023
            self.waiting.append(str(answer["id"]))

    def finish(self) -> None:
        """Let those that are under way succeed."""
        for import_id in self.waiting:
            self._service.ask(lambda live: live.until_state(import_id, "succeeded"))  # noqa: B023
        self.succeeded += len(self.waiting)

    def _state(self, import_id: str) -> str:
        found = self._service.ask(lambda live: live.get(import_id))
        assert found["state"] not in ("failed", "cancelled"), found
        return str(found["state"])


def assert_all_rows_are_there(database_url: str, imports: Imports, sample: bytes) -> None:
    """See that trips holds the file as often as it was imported, and nothing else, and that the ledger proves it."""
    per_import = "SELECT count(DISTINCT import_key), count(*) FROM trips"
    assert query(database_url, per_import) == [(imports.succeeded, imports.succeeded * SAMPLE_ROWS)]
    whole = checksum_of(database_url, sample)
    rows = "SELECT import_key, (to_jsonb(trips) - 'import_key' - 'part')::text AS row FROM trips"
    checksums = f"SELECT DISTINCT md5(string_agg(row, ' ' ORDER BY row)) FROM ({rows}) GROUP BY import_key"
    assert query(database_url, checksums) == [(whole,)]
    with psycopg.connect(database_url) as connection:
        for found in ledger.select_imports(connection):
            spans = ledger.spans(connection, found.import_key)
            assert coverage.find_flaw(spans, found.data_start, len(sample)) is None


def test_loaders_and_service_are_killed_at_random_and_no_row_is_lost_or_doubled(
    chance: random.Random, data: tuple[Path, str], tmp_path: Path, server: HttpServer, sample: bytes
) -> None:
    _, database_url = data
    killed = {"loader": 0, "service": 0, "both": 0}
    with restarted_service(tmp_path, database_url) as service:
        imports = Imports(service, server)
        while sum(killed.values()) < KILLS:
            imports.refill()
            time.sleep(chance.uniform(0, 2.5))  # the moment is what is tried here
            loaders = service.children()
            what = chance.choice(list(killed) if loaders else ["service"])
            if what != "loader":
                service.kill()
            if what != "service":
                for loader in loaders if what == "both" else [chance.choice(loaders)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        loader.kill()
            killed[what] += 1
        imports.finish()
        service.stop()
    print(killed, "imports:", imports.succeeded, "services:", service.starts)
    assert_all_agree(tmp_path, database_url)
    assert_all_rows_are_there(database_url, imports, sample)


def test_the_database_is_killed_at_random_and_no_row_is_lost_or_doubled(
    chance: random.Random, data: tuple[Path, str], tmp_path: Path, server: HttpServer, sample: bytes
) -> None:
    folder, database_url = data
    crashes = {"immediate shutdown": 0, "postmaster": 0, "backend": 0}
    with restarted_service(tmp_path, database_url) as service:
        imports = Imports(service, server)
        while sum(crashes.values()) < CRASHES:
            imports.refill()
            time.sleep(chance.uniform(0, 3))  # the moment is what is tried here
            what = chance.choice(list(crashes))
            crash(what, folder, chance)
            crashes[what] += 1
            wait_for("the database", lambda: answers(database_url))
        imports.finish()
        service.stop()
    print(crashes, "imports:", imports.succeeded)
    assert_all_agree(tmp_path, database_url)
    assert_all_rows_are_there(database_url, imports, sample)


def crash(what: str, folder: Path, chance: random.Random) -> None:
    """End the server, or one of its sessions, after which it ends all others and recovers."""
    postmaster = psutil.Process(int((folder / "postgres" / "postmaster.pid").read_text().split("\n")[0]))
    match what:
        case "immediate shutdown":
            postmaster.send_signal(signal.SIGQUIT)
        case "postmaster":
            postmaster.kill()
        case _:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(postmaster.children()).kill()


def answers(database_url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return query(database_url, "SELECT 1") == [(1,)]
    return False
