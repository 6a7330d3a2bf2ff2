"""The service crashes, fails or is stopped at each of its steps: after a restart no import is lost or duplicated."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from tests.support.http_server import Fault, HttpServer, Request
from tests.support.live_service import Json, LiveService, fresh_database
from tests.support.loader_process import query, row_count, wait_until_disconnected
from tests.support.restarted_service import RestartedService, assert_all_agree, restarted_service
from tests.support.supervision import supervising, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Three parts.
ROWS = 7_000
# Between the first part and the end of the file.
STALL_BYTES = 700_000


def stall(server: HttpServer, *targets: str) -> None:
    """Stop in the middle of these files; serve all others."""

    def late(request: Request) -> Fault | None:
        is_late = (request.first or 0) >= STALL_BYTES and request.target in targets
        return Fault(before="stall") if is_late else None

    server.rule = late
    server.drop_connections()


# Committed parts of two imports that are not published.
TWO_BEGUN = (
    "SELECT FROM loader.part JOIN loader.import USING (import_key) WHERE state = 'loading'"
    " HAVING count(DISTINCT import_key) = 2"
)


@dataclass(frozen=True)
class Prepared:
    """The control DB and the database of a killed service, copied for each run."""

    server: HttpServer
    folder: Path
    database_url: str
    running: UUID
    cancelling: UUID
    removing: UUID


async def prepare(server: HttpServer, folder: Path, database_url: str) -> Prepared:
    async with supervising(folder, database_url) as harness:
        removing = await harness.submit(server.url)
        await harness.receipt(await harness.submit(server.url))
        await harness.receipt(removing)
        stall(server, "/running.csv")
        running, cancelling = [await harness.submit(f"{server.origin}/running.csv") for _ in range(2)]
        await until("parts of both", lambda: query(database_url, TWO_BEGUN))
        await harness.supervisor.stop()
        for _ in range(2):
            await harness.store.claim()
        await harness.store.request_cancel(cancelling)
        await harness.store.request_removal(removing, drops_rows=True)
    return Prepared(server, folder, database_url, running, cancelling, removing)


@pytest.fixture(scope="module")
def prepared(postgres: str, sample: bytes, tmp_path_factory: pytest.TempPathFactory) -> Generator[Prepared]:
    file = b"".join(sample.splitlines(keepends=True)[: ROWS + 1])
    with HttpServer(file) as server, fresh_database(postgres) as database_url:
        prepared = asyncio.run(prepare(server, tmp_path_factory.mktemp("prepared"), database_url))
        wait_until_disconnected(database_url)
        yield prepared


@contextmanager
def copied(prepared: Prepared, postgres: str, folder: Path) -> Generator[str]:
    """Copy the control DB to the folder; yield the URL of a copy of the database."""
    folder.mkdir()
    shutil.copy(prepared.folder / "importer.sqlite", folder)
    with fresh_database(postgres, template=urlsplit(prepared.database_url).path[1:]) as database_url:
        yield database_url


def live_through(service: RestartedService, prepared: Prepared) -> None:
    """Use all operations of the service; restart it whenever it ends."""
    server = prepared.server
    stall(server, "/slow.csv")

    def submit(key: str, url: str) -> str:
        answer: Json = service.ask(lambda live: live.submit(url, {"Idempotency-Key": key}, force=True))
        return str(answer["id"])

    fast, slow = submit("fast", server.url), submit("slow", f"{server.origin}/slow.csv")
    service.ask(lambda live: live.until_state(fast, "succeeded"))
    service.ask(lambda live: live.client.delete(f"/imports/{fast}?rows=drop"))
    service.ask(lambda live: live.until_phase(slow, "loading"))
    service.ask(lambda live: cancel_until_it_is(live, slow))
    last = submit("last", f"{server.origin}/slow.csv")
    service.ask(lambda live: live.until_gone(fast))
    service.ask(lambda live: live.until_gone(str(prepared.removing)))
    service.ask(lambda live: live.until_state(str(prepared.cancelling), "cancelled"))
    service.ask(lambda live: live.until_state(str(prepared.running), "succeeded"))
    service.ask(lambda live: live.until_phase(last, "loading"))
    service.stop()
    stall(server)
    service.ask(lambda live: live.until_state(last, "succeeded"))
    service.stop()


def cancel_until_it_is(live: LiveService, import_id: str) -> None:
    live.client.post(f"/imports/{import_id}/cancel")
    live.until_state(import_id, "cancelled")


def at_each_step(
    what: str, steps: Iterable[int], prepared: Prepared, postgres: str, folder: Path
) -> Iterator[tuple[Path, str]]:
    """Yield the folder and the database URL after each run, one for each step."""
    for step in steps:
        here = folder / str(step)
        with copied(prepared, postgres, here) as database_url:
            with restarted_service(here, database_url, f"{what}@{step}") as service:
                live_through(service, prepared)
            yield here, database_url
        if not any("failpoint" in log.read_text() for log in here.glob("service-*.log")):
            return


@pytest.mark.parametrize(
    "what", ["crash", *(pytest.param(each, marks=pytest.mark.long) for each in ("error", "SIGTERM"))]
)
def test_a_service_that_ends_at_any_step_resumes_after_a_restart(
    what: str, every_step: bool, prepared: Prepared, postgres: str, tmp_path: Path
) -> None:
    steps = itertools.count(1) if every_step else (18, 41)
    for folder, database_url in at_each_step(what, steps, prepared, postgres, tmp_path):
        assert_all_agree(folder, database_url)
        assert query(database_url, "SELECT count(*) FROM loader.import") == [(3,)]
        assert row_count(database_url) == 3 * ROWS
