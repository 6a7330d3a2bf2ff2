"""The event stream of an import: it is complete, can be resumed, and does not delay a stop of the service."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import psutil
import pytest

from tests.support.http_server import Fault, HttpServer
from tests.support.live_service import Json, LiveService, fresh_database
from tests.support.loader_process import wait_for

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

# The time limit for a stop while clients wait for changes.
SHUTDOWN_SECONDS = 5


class Event(msgspec.Struct):
    """One event as a browser receives it; a comment has no type."""

    type: str = ""
    id: str = ""
    data: str = ""

    @property
    def shown(self) -> Json:
        return msgspec.json.decode(self.data)


def events(answer: httpx.Response) -> Iterator[Event]:
    """Parse a stream as the HTML standard defines it."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    event = Event()
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        match name:
            case "event":
                event.type = value
            case "id":
                event.id = value
            case "data":
                event.data = value
            case "" if line:
                event.data = value
            case "":
                yield event
                event = Event()
            case _:
                assert name == "retry"


@pytest.fixture(scope="module")
def database_url(postgres: str) -> Generator[str]:
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Generator[LiveService]:
    with LiveService(tmp_path_factory.mktemp("service"), database_url) as live:
        yield live


@pytest.fixture
def source(sample: bytes) -> Generator[HttpServer]:
    """A server that does not respond until its rule is removed."""
    with HttpServer(sample) as server:
        server.rule = lambda _: Fault(before="stall")
        yield server


def connection_count(service: LiveService) -> int:
    connections = psutil.Process(service.process.pid).net_connections("tcp")
    return sum(each.status == psutil.CONN_ESTABLISHED for each in connections)


def running_and_queued(service: LiveService, source: HttpServer) -> tuple[Json, Json]:
    """Return a running import and a queued one, which does not change."""
    running = [service.submit(source.url, force=True) for _ in range(2)]  # all slots
    for each in running:
        service.until_phase(each["id"], "probing")
    return running[0], service.submit(source.url, force=True)


def release(source: HttpServer) -> None:
    source.rule = lambda _: None
    source.drop_connections()


def test_a_stream_has_each_change_and_ends_with_the_import(service: LiveService, source: HttpServer) -> None:
    submitted = service.submit(source.url, force=True)
    with service.client.stream("GET", submitted["links"]["events"]) as answer:
        stream = events(answer)
        next(stream)  # the reconnection time
        first = next(stream)
        assert first.shown["id"] == submitted["id"]
        release(source)
        seen = [first, *stream]
    assert [event.type for event in seen] == ["import"] * len(seen)
    ids = [int(event.id) for event in seen]
    assert ids == sorted(set(ids))
    assert seen[-1].shown["state"] == "succeeded", seen[-1].shown["error"]
    percents = [event.shown["progress"]["percent"] or 0 for event in seen]
    assert percents == sorted(percents)
    assert [percent for percent in percents if percent == 100] == [100]
    assert seen[-1].shown == service.get(submitted["id"])


def test_a_client_that_reconnects_misses_no_event_and_gets_none_twice(
    service: LiveService, source: HttpServer
) -> None:
    submitted = service.submit(source.url, force=True)
    path = submitted["links"]["events"]
    service.until_phase(submitted["id"], "probing")
    with service.client.stream("GET", path) as answer:
        stream = events(answer)
        next(stream)
        last_seen = next(stream)
    release(source)
    headers = {"Last-Event-ID": last_seen.id}
    with service.client.stream("GET", path, headers=headers) as answer:
        rest = [event for event in events(answer) if event.type]
    assert int(rest[0].id) > int(last_seen.id)
    assert rest[-1].shown["state"] == "succeeded"

    answer = service.client.get(path, headers={"Last-Event-ID": rest[-1].id})
    assert (answer.status_code, answer.content) == (204, b"")
    answer = service.client.get(path, headers={"Last-Event-ID": "of another service"})
    assert [event.id for event in events(answer) if event.type] == [rest[-1].id]


def test_a_stream_ends_when_its_client_disconnects(service: LiveService, source: HttpServer) -> None:
    submitted = service.submit(source.url, force=True)
    with service.client.stream("GET", submitted["links"]["events"]) as answer:
        stream = events(answer)
        next(stream)
        assert service.metric("importer_event_streams") == 1
    wait_for("the service to notice", lambda: service.metric("importer_event_streams") == 0)
    service.client.post(submitted["links"]["cancel"])


def test_the_stream_of_a_removed_import_ends_with_the_event_removed(
    service: LiveService, source: HttpServer
) -> None:
    release(source)
    submitted = service.submit(source.url, force=True)
    service.until_state(submitted["id"], "succeeded")
    service.client.delete(submitted["links"]["self"], params={"rows": "drop"})
    answer = service.client.get(submitted["links"]["events"])
    if answer.status_code == 200:  # it may be removed already
        *_, last = events(answer)
        assert (last.type, last.data) == ("removed", submitted["id"])
    service.until_gone(submitted["id"])


def test_the_service_stops_while_many_clients_wait_for_changes(
    service: LiveService, source: HttpServer, sample: bytes
) -> None:
    running, queued = running_and_queued(service, source)

    def watch(_: int) -> list[str]:
        url = service.url + queued["links"]["events"]
        with httpx.stream("GET", url, timeout=60, trust_env=False) as answer:
            return [event.type for event in events(answer)]

    def poll(_: int) -> int:
        url = service.url + queued["links"]["self"]
        return httpx.get(url, params={"wait": 60}, timeout=90, trust_env=False).status_code

    with ThreadPoolExecutor(20) as threads:
        streams = [threads.submit(watch, each) for each in range(10)]
        polls = [threads.submit(poll, each) for each in range(10)]
        wait_for(
            "all clients to be connected",  # the 21st one asks for the metric
            lambda: service.metric("importer_event_streams") == 10 and connection_count(service) == 21,
        )
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(SHUTDOWN_SECONDS) == 0
        for stream in streams:
            assert "import" in stream.result()
        assert {each.result() for each in polls} == {200}

    # The running import resumes at the next start.
    release(source)
    with LiveService(service.folder, service.database_url) as next_service:
        ended = next_service.until_state(running["id"], "succeeded")
    assert ended["progress"]["bytes_done"] == len(sample)


@pytest.mark.long
def test_a_stream_without_changes_has_comments(service: LiveService, source: HttpServer) -> None:
    _, queued = running_and_queued(service, source)
    with service.client.stream("GET", queued["links"]["events"]) as answer:
        assert [event.data for event in itertools.islice(events(answer), 3)][2] == "no change"
