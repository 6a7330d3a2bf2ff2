"""Whatever is killed at random moments, again and again: in the end exactly the rows of each file are there, each once.

The seed is printed; RANDOM_KILLS_SEED repeats its choices (not the machine's timing).
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from loader.contract import FailureCode
from loader.pipeline import coverage
from loader.postgres import ledger
from tests.conftest import SAMPLE_ROWS
from tests.support.crashing_postgres import CRASHES, CrashingPostgres
from tests.support.http_server import HttpServer
from tests.support.loader_process import checksum_of, query, wait_for
from tests.support.restarted_service import RestartedService, assert_all_agree, restarted_service

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = 120
CRASH_COUNT = 30
# Two slots, and two imports that wait for them.
AT_ONCE = 4


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("RANDOM_KILLS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"RANDOM_KILLS_SEED={seed}")
    return random.Random(seed)


class Imports:
    """Some imports that are always under way, and those that have ended."""

    def __init__(self, service: RestartedService, server: HttpServer) -> None:
        self._service = service
        self._server = server
        self.waiting: list[str] = []
        self.succeeded = 0

    def refill(self) -> None:
        """Submit as many as have ended."""
        self._collect()
        while len(self.waiting) < AT_ONCE:
            key = {"Idempotency-Key": f"{self.succeeded}-{len(self.waiting)}-{time.monotonic_ns()}"}
            answer = self._service.ask(lambda live: live.submit(self._server.url, key, force=True))  # noqa: B023 - called at once
            self.waiting.append(str(answer["id"]))

    def finish(self) -> None:
        """Let those that are under way succeed."""

        def have_all_succeeded() -> bool:
            self._collect()
            return not self.waiting

        wait_for("all to succeed", have_all_succeeded)

    def _collect(self) -> None:
        """Count those that have succeeded; try again, as a person would, those that gave the database up."""
        for each in tuple(self.waiting):
            found = self._service.ask(lambda live: live.get(each))  # noqa: B023 - called at once
            match found["state"]:
                case "succeeded":
                    self.waiting.remove(each)
                    self.succeeded += 1
                case "failed":
                    # the delays of a test are so short that ten attempts can all meet a server that is starting
                    assert found["error"]["code"] == FailureCode.DATABASE_UNAVAILABLE, found
                    self._service.ask(lambda live: live.client.post(found["links"]["retry"]))  # noqa: B023
                case state:
                    assert state != "cancelled", found


def assert_all_rows_are_there(database_url: str, imports: Imports, sample: bytes) -> None:
    """Check that trips holds the file as often as it was imported, and nothing else, and that the ledger agrees."""
    per_import = "SELECT count(DISTINCT import_key), count(*) FROM trips"
    assert query(database_url, per_import) == [(imports.succeeded, imports.succeeded * SAMPLE_ROWS)]
    whole = checksum_of(database_url, sample)
    rows = "SELECT import_key, (to_jsonb(trips) - 'import_key' - 'part')::text AS row FROM trips"
    checksums = f"SELECT DISTINCT md5(string_agg(row, ' ' ORDER BY row)) FROM ({rows}) GROUP BY import_key"
    assert query(database_url, checksums) == [(whole,)]
    with psycopg.connect(database_url) as connection:
        for found in ledger.select_imports(connection):
            spans = ledger.spans(connection, found.import_key)
            assert coverage.coverage_error(spans, found.data_start, len(sample)) is None


def test_loaders_and_service_are_killed_at_random_and_no_row_is_lost_or_doubled(
    chance: random.Random,
    crashing_postgres: CrashingPostgres,
    tmp_path: Path,
    server: HttpServer,
    sample: bytes,
) -> None:
    database_url = crashing_postgres.url
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
    chance: random.Random,
    crashing_postgres: CrashingPostgres,
    tmp_path: Path,
    server: HttpServer,
    sample: bytes,
) -> None:
    database_url = crashing_postgres.url
    crashes = dict.fromkeys(CRASHES, 0)
    with restarted_service(tmp_path, database_url) as service:
        imports = Imports(service, server)
        while sum(crashes.values()) < CRASH_COUNT:
            imports.refill()
            time.sleep(chance.uniform(0, 3))  # the moment is what is tried here
            what = chance.choice(list(crashes))
            crashing_postgres.crash(what, chance)
            crashes[what] += 1
            wait_for("the database", crashing_postgres.responds)
        imports.finish()
        service.stop()
    print(crashes, "imports:", imports.succeeded)
    assert_all_agree(tmp_path, database_url)
    assert_all_rows_are_there(database_url, imports, sample)
