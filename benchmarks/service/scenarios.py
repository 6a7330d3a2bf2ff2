"""What is measured of the service: a start and a cancel, requests while two imports load, the loader's own speed.

Each has a database, a control DB and a service process of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import psutil

from benchmarks.contenders.contenders import loader
from benchmarks.measure import peak_bytes, run_pipeline
from benchmarks.run import Entry
from benchmarks.server import LastCopy, Server
from benchmarks.service.request_load import Answer, get_on_schedule, submit_many
from examples.service_process import ServiceProcess, serve_imports
from importer.api.schemas import Import
from importer.cli.client import Client
from importer.model import FINISHED, State
from loader.contract import Message, Published

CONTENDER = loader("--progress=json")
GETS_A_SECOND = 50
SUBMISSIONS = 1000
# The size of the staging when cancel is asked for, of the file's: some 70 % of what it would become.
STAGED_SHARE = 0.9
POLL_SECONDS = 0.02

# More than two imports load in a second on two cores, and less than it takes to start and to end one: with as many in
# the queue, both slots are in use for as long as is measured.
_MAX_BYTES_A_SECOND = 200e6
_MIN_IMPORT_SECONDS = 0.5


class Start(msgspec.Struct, frozen=True):
    """Seconds from a POST, with a slot free, until the service tells what the loader has said."""

    first_message_seconds: float
    first_rows_seconds: float


class Cancel(msgspec.Struct, frozen=True):
    """Seconds from a POST that cancels a running import."""

    staged_bytes: int
    stop_seconds: float  # to the end of the last COPY
    cancelled_seconds: float


class Requests(msgspec.Struct, frozen=True):
    """What the service answers while two imports load, and with a long queue."""

    start: Start  # of the second import, while the first one loads
    gets: list[Answer]
    busy_queue_seconds: float  # for SUBMISSIONS of POSTs
    queue_seconds: float  # the same, while the loaders are stopped and take no CPU time
    service_peak_bytes: int


class Load(msgspec.Struct, frozen=True):
    """One load and publish of the whole file."""

    loader_seconds: float  # as its receipt has it
    seconds: float  # from the start of the process, or from the POST, to the end as its client sees it


def start_and_cancel(server: Server, entry: Entry, folder: Path) -> tuple[Start, Cancel]:
    """Submit a file, and cancel it when most of it is staged."""
    with _service(server, entry, folder) as (_, client):
        empty_bytes = server.database_bytes()
        import_id, start = _start(client, entry)
        while (staged_bytes := server.database_bytes() - empty_bytes) < STAGED_SHARE * entry.source_bytes:
            time.sleep(POLL_SECONDS)  # between two looks
        last_copy = LastCopy(server)
        asked_at = time.perf_counter()
        client.cancel(import_id)
        while (found := client.get(import_id)).state not in FINISHED:
            last_copy.look()
            time.sleep(POLL_SECONDS)  # between two looks
        ended_at = time.perf_counter()
        _check(found, State.CANCELLED)
    stopped_at = last_copy.ended_at or ended_at
    return start, Cancel(staged_bytes, stopped_at - asked_at, ended_at - asked_at)


def requests(server: Server, entry: Entry, folder: Path, seconds: float) -> Requests:
    """Keep two loaders at work; ask for so many seconds where the imports stand, then submit a thousand, twice."""
    with _service(server, entry, folder) as (service, client):
        first, _ = _start(client, entry)
        second, start = _start(client, entry)
        imports = seconds * min(_MAX_BYTES_A_SECOND / entry.source_bytes, 2 / _MIN_IMPORT_SECONDS)
        others = [_submit(client, entry).id for _ in range(math.ceil(imports))]
        paths = [f"/imports/{each}" for each in (first, second, *others)]
        gets = get_on_schedule(service.url, paths, a_second=GETS_A_SECOND, seconds=seconds)
        if next(client.all(State.QUEUED), None) is None:
            sys.exit("The queue was empty before all requests were answered: use more --rows.")
        body = msgspec.json.encode(_new_import(entry))
        busy_queue_seconds = submit_many(service.url, body, SUBMISSIONS)
        with _loaders_stopped(service):
            queue_seconds = submit_many(service.url, body, SUBMISSIONS)
        return Requests(start, gets, busy_queue_seconds, queue_seconds, peak_bytes(service.process_id) or 0)


def load_by_cli(server: Server, entry: Entry) -> Load:
    """Have the loader load the file by itself."""
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    pipeline = CONTENDER.pipeline(entry.source_url, server.database_url)
    with server.fresh_database(""), tempfile.TemporaryFile() as output:
        usage = run_pipeline(pipeline, environment, output=output.fileno())
        output.seek(0)
        *_, last = (msgspec.json.decode(line, type=Message) for line in output)
    if not isinstance(last, Published) or last.receipt.rows_published != entry.rows:
        sys.exit(f"the loader ended well, but with {last}")
    return Load(last.receipt.seconds, usage.wall_seconds)


def load_by_service(server: Server, entry: Entry, folder: Path) -> Load:
    """Have the service load the file, watched by a client."""
    with _service(server, entry, folder) as (_, client):
        began = time.perf_counter()
        *_, last = client.watch(_submit(client, entry).id)
        ended = time.perf_counter()
        _check(last, State.SUCCEEDED)
    if last.receipt is None or last.receipt.rows_published != entry.rows:
        sys.exit(f"import {last.id} has succeeded, but with {last.receipt}")
    return Load(last.receipt.seconds, ended - began)


@contextmanager
def _service(server: Server, entry: Entry, folder: Path) -> Generator[tuple[ServiceProcess, Client]]:
    """Run a service with its defaults. Its control DB is in the folder: a disk, as /tmp need not be."""
    ours = {"DATABASE_URL": server.database_url, "IMPORTER_ALLOWED_HOSTS": urlsplit(entry.source_url).netloc}
    others = {name: value for name, value in os.environ.items() if not name.startswith("IMPORTER_")}
    with (
        server.fresh_database(""),
        tempfile.TemporaryDirectory(dir=folder) as data_folder,
        serve_imports(Path(data_folder) / "data", others | ours) as service,
        Client(service.url) as client,
    ):
        yield service, client


def _new_import(entry: Entry) -> dict[str, object]:
    """Return the request's body. Forced: the same file is imported more than once."""
    return {"url": entry.source_url, "force": True}


def _submit(client: Client, entry: Entry) -> Import:
    return client.submit(_new_import(entry), None)


def _start(client: Client, entry: Entry) -> tuple[UUID, Start]:
    """Submit a file, wait until rows of it are loaded."""
    began = time.perf_counter()
    import_id = _submit(client, entry).id
    message_at: float | None = None
    for found in client.watch(import_id):
        now = time.perf_counter()
        if message_at is None and found.phase is not None:
            message_at = now
        if message_at is not None and found.progress.rows_loaded:
            return import_id, Start(message_at - began, now - began)
    sys.exit(f"import {import_id} ended before it was loading")


@contextmanager
def _loaders_stopped(service: ServiceProcess) -> Generator[None]:
    """Have the service's loaders keep their slots, without working."""
    loaders = psutil.Process(service.process_id).children()
    try:
        for each in loaders:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended just now
                each.suspend()
        yield
    finally:
        for each in loaders:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()


def _check(found: Import, expected: State) -> None:
    if found.state is not expected:
        sys.exit(f"import {found.id} has {found.state} instead of {expected}: {found.error}")
