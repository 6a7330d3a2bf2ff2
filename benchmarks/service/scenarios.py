"""Scenarios for the service: start and cancel, requests while two imports load, loads against the command line.

Each has its own database, control DB and service process.
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
from benchmarks.run import Entry
from benchmarks.server import LastCopy, Server
from benchmarks.service.request_load import Response, get_on_schedule, submit_many
from benchmarks.usage import peak_bytes, run_pipeline
from examples.service_process import ServiceProcess, serve_imports
from importer.api.schemas import Import
from importer.cli.client import Client
from importer.model import FINISHED, State
from loader.contract import Message, Published

CONTENDER = loader("--progress=json")
GETS_PER_SECOND = 50
SUBMISSIONS = 1000
# Size of the staging at the cancel, relative to the file: about 70 % of its final size.
STAGED_SHARE = 0.9
POLL_INTERVAL_SECONDS = 0.02

# Upper bounds for two cores: bytes that two imports load per second, and imports that start and end per second. They
# make a queue that keeps both slots busy during the measurement.
_MAX_BYTES_PER_SECOND = 200e6
_MIN_IMPORT_SECONDS = 0.5


class Start(msgspec.Struct, frozen=True):
    """Seconds from a POST, with a free slot, until the service shows a message of the loader."""

    first_message_seconds: float
    first_rows_seconds: float


class Cancel(msgspec.Struct, frozen=True):
    """Seconds from a POST that cancels a running import."""

    staged_bytes: int
    stop_seconds: float  # to the end of the last COPY
    cancelled_seconds: float


class Requests(msgspec.Struct, frozen=True):
    """Requests to the service while two imports load, with a long queue."""

    start: Start  # of the second import, while the first loads
    gets: list[Response]
    busy_queue_seconds: float  # for SUBMISSIONS POSTs
    queue_seconds: float  # the same while the loaders are stopped and use no CPU
    service_peak_bytes: int


class Load(msgspec.Struct, frozen=True):
    """One load and publish of the whole file."""

    loader_seconds: float  # by its receipt
    seconds: float  # from the start of the process or the POST, until the client sees the end


def start_and_cancel(server: Server, entry: Entry, folder: Path) -> tuple[Start, Cancel]:
    """Submit a file, and cancel it when most of it is staged."""
    with _service(server, entry, folder) as (_, client):
        empty_bytes = server.database_bytes()
        import_id, start = _start(client, entry)
        while (staged_bytes := server.database_bytes() - empty_bytes) < STAGED_SHARE * entry.source_bytes:
            time.sleep(POLL_INTERVAL_SECONDS)  # only polling shows the size of a database
        last_copy = LastCopy(server)
        cancelled_at = time.perf_counter()
        client.cancel(import_id)
        while (found := client.get(import_id)).state not in FINISHED:
            last_copy.poll()
            time.sleep(POLL_INTERVAL_SECONDS)  # only polling shows the end of a COPY
        ended_at = time.perf_counter()
        _check(found, State.CANCELLED)
    stopped_at = last_copy.ended_at or ended_at
    return start, Cancel(staged_bytes, stopped_at - cancelled_at, ended_at - cancelled_at)


def requests(server: Server, entry: Entry, folder: Path, seconds: float) -> Requests:
    """Keep two loaders busy; GET imports for that many seconds, then submit a thousand, twice."""
    with _service(server, entry, folder) as (service, client):
        first, _ = _start(client, entry)
        second, start = _start(client, entry)
        imports = seconds * min(_MAX_BYTES_PER_SECOND / entry.source_bytes, 2 / _MIN_IMPORT_SECONDS)
        others = [_submit(client, entry).id for _ in range(math.ceil(imports))]
        paths = [f"/imports/{each}" for each in (first, second, *others)]
        gets = get_on_schedule(service.url, paths, per_second=GETS_PER_SECOND, seconds=seconds)
        if next(client.all([State.QUEUED], None), None) is None:
            sys.exit("The queue was empty before the last response: use more --rows.")
        body = msgspec.json.encode(_new_import(entry))
        busy_queue_seconds = submit_many(service.url, body, SUBMISSIONS)
        with _loaders_stopped(service):
            queue_seconds = submit_many(service.url, body, SUBMISSIONS)
        return Requests(start, gets, busy_queue_seconds, queue_seconds, peak_bytes(service.process_id) or 0)


def load_by_cli(server: Server, entry: Entry) -> Load:
    """Load the file by the command line."""
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    pipeline = CONTENDER.pipeline(entry.source_url, server.database_url)
    with server.fresh_database(""), tempfile.TemporaryFile() as output:
        usage = run_pipeline(pipeline, environment, output=output.fileno())
        output.seek(0)
        *_, last = (msgspec.json.decode(line, type=Message) for line in output)
    if not isinstance(last, Published) or last.receipt.rows_published != entry.rows:
        sys.exit(f"the loader succeeded, but with {last}")
    return Load(last.receipt.seconds, usage.wall_seconds)


def load_by_service(server: Server, entry: Entry, folder: Path) -> Load:
    """Load the file by the service, watched by a client."""
    with _service(server, entry, folder) as (_, client):
        started_at = time.perf_counter()
        *_, last = client.watch(_submit(client, entry).id)
        ended_at = time.perf_counter()
        _check(last, State.SUCCEEDED)
    if last.receipt is None or last.receipt.rows_published != entry.rows:
        sys.exit(f"import {last.id} has succeeded, but with {last.receipt}")
    return Load(last.receipt.seconds, ended_at - started_at)


@contextmanager
def _service(server: Server, entry: Entry, folder: Path) -> Generator[tuple[ServiceProcess, Client]]:
    """Run a service with default settings. Its control DB is in the folder, which is on a disk; /tmp may not be."""
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
    """Return the request's body. `force` allows the same file to be imported repeatedly."""
    return {"url": entry.source_url, "force": True}


def _submit(client: Client, entry: Entry) -> Import:
    return client.submit(_new_import(entry), None)


def _start(client: Client, entry: Entry) -> tuple[UUID, Start]:
    """Submit a file, and wait until rows of it are loaded."""
    started_at = time.perf_counter()
    import_id = _submit(client, entry).id
    message_at: float | None = None
    for found in client.watch(import_id):
        now = time.perf_counter()
        if message_at is None and found.phase is not None:
            message_at = now
        if message_at is not None and found.progress.rows_loaded:
            return import_id, Start(message_at - started_at, now - started_at)
    sys.exit(f"import {import_id} ended before it was loading")


@contextmanager
def _loaders_stopped(service: ServiceProcess) -> Generator[None]:
    """Stop the service's loaders, which keep their slots."""
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
