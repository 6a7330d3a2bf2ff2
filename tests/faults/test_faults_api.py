"""Faulty and hostile clients neither stop the service nor keep other clients out for long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import Fault, HttpServer
from tests.support.live_service import Json, LiveService, assert_problem, fresh_database
from tests.support.loader_process import assert_nothing_is_left, query, row_count, wait_for
from tests.support.postgres_proxy import Proxy

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

# The time limit for a stop of the service, with any clients.
SHUTDOWN_SECONDS = 5
# The time limit where a loader or a database hangs, too (docs/operations.md).
HUNG_SHUTDOWN_SECONDS = 15
# limited_service.py
CONNECTIONS, WATCHERS, LISTINGS = 60, 30, 3


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Generator[LiveService]:
    """A service with few connections and short time limits."""
    with (
        fresh_database(postgres) as database_url,
        LiveService(tmp_path_factory.mktemp("limited"), database_url, limited=True) as live,
    ):
        yield live


@pytest.fixture
def stalled(limited: LiveService) -> Generator[Json]:
    """A queued import, behind two whose source never responds."""
    with HttpServer(b"") as server:
        server.rule = lambda _: Fault(before="stall")
        submitted = [limited.submit(server.url, force=True) for _ in range(3)]
        for each in submitted[:2]:
            limited.until_phase(each["id"], "probing")
        yield submitted[2]
        for each in reversed(submitted):
            limited.client.post(each["links"]["cancel"])
            limited.until_state(each["id"], "cancelled")


@contextlib.contextmanager
def connected(service: LiveService, request: bytes, *, window_bytes: int = 0) -> Generator[socket.socket]:
    """Yield a connection that has sent these bytes; `window_bytes`: the size of its receive buffer."""
    address = urlsplit(service.url)
    with socket.socket() as client:
        client.settimeout(60)
        if window_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        client.connect((address.hostname, address.port))
        with contextlib.suppress(OSError):  # the service may close it before the end
            client.sendall(request)
        yield client


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def received(client: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            answer += data
    return answer


def loaders_of(service: LiveService) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for each in psutil.Process(service.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just exited
            if "run" in each.cmdline():
                found.append(each)
    return found


# Repeated requests


def test_fifty_concurrent_cancels_have_the_effect_of_one(limited: LiveService, server: HttpServer) -> None:
    server.rule = lambda request: Fault(before="stall") if (request.first or 0) >= 1_500_000 else None
    running = limited.submit(server.url, force=True)
    limited.until_phase(running["id"], "loading")

    def cancel(_: int) -> httpx.Response:
        return httpx.post(limited.url + running["links"]["cancel"], timeout=60, trust_env=False)

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(cancel, range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["state"] for answer in answers} <= {"cancelling", "cancelled"}
    limited.until_state(running["id"], "cancelled")
    attempts = limited.client.get(running["links"]["attempts"]).json()["attempts"]
    assert [each["exit_code"] for each in attempts] == [143]
    assert_nothing_is_left(limited.database_url)


def test_a_cancel_is_complete_when_a_database_that_hung_responds_again(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    with Proxy(database_url) as proxy, LiveService(tmp_path, proxy.url) as live:
        proxy.loses_responses = True
        submitted = live.submit(server.url)
        live.until_state(submitted["id"], "running")
        wait_for("the loader", lambda: loaders_of(live))
        live.client.post(submitted["links"]["cancel"])
        wait_for("the loader to end", lambda: not loaders_of(live))
        assert live.get(submitted["id"])["state"] == "cancelling"  # what is left is not known
        proxy.close_connections()
        live.until_state(submitted["id"], "cancelled")
    assert_nothing_is_left(database_url)
    assert row_count(database_url) == 0


def test_the_same_file_submitted_many_times_at_once_is_published_once(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    with LiveService(tmp_path, database_url, {"IMPORTER_SLOTS": "3"}) as live:

        def submit(_: int) -> str:
            return httpx.post(live.url + "/imports", json={"url": server.url}, trust_env=False).json()["id"]

        with ThreadPoolExecutor(3) as threads:
            ids = list(threads.map(submit, range(3)))
        ended = [live.until_state(each, "succeeded", "failed") for each in ids]
    assert sorted(each["state"] for each in ended) == ["failed", "failed", "succeeded"]
    assert {each["error"]["code"] for each in ended if each["error"]} == {"already_imported"}
    assert row_count(database_url) == SAMPLE_ROWS
    assert_nothing_is_left(database_url)


@pytest.mark.long
def test_other_requests_are_answered_while_a_thousand_imports_are_cancelled(
    limited: LiveService, stalled: Json
) -> None:
    async def flood() -> tuple[set[int], set[int], int]:
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(
            base_url=limited.url, limits=limits, timeout=120, trust_env=False
        ) as client:
            body = {"url": "http://localhost/trips.csv"}
            answers = await asyncio.gather(*(client.post("/imports", json=body) for _ in range(1000)))
            cancels = [client.post(answer.json()["links"]["cancel"]) for answer in answers]
            cancelling = asyncio.gather(*cancels)
            reads, most_loaders = set[int](), 0
            while not cancelling.done():
                reads.add((await client.get(stalled["links"]["self"])).status_code)
                most_loaders = max(most_loaders, len(loaders_of(limited)))
                await asyncio.sleep(0.1)  # between two looks
            assert {answer.json()["state"] for answer in await cancelling} == {"cancelled"}
            return {answer.status_code for answer in answers}, reads, most_loaders

    submits, reads, most_loaders = asyncio.run(flood())
    assert (submits, reads, most_loaders) == ({202}, {200}, 2)
    assert limited.metric("importer_queue_depth") == 1


# Invalid requests


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health/live\r\n\r\n",  # HTTP/0.9
        b"GET /health/live HTTP/1.1\r\n\r\n",  # no Host
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n folded: yes\r\nX: \0\r\n\r\n",
        b"GET /health/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000,
        b"GET /" + b"x" * 1_000_000,
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100_000,
        b"POST /imports HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /imports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /imports HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_a_connection_with_bytes_that_are_no_request_is_closed(
    limited: LiveService, request_bytes: bytes
) -> None:
    with connected(limited, request_bytes) as client:
        answer = received(client)
    assert answer.startswith(b"HTTP/1.1 4") or not answer  # the response is lost if the client still sends
    assert limited.client.get("/health/live").status_code == 200


def test_pipelined_requests_are_answered_one_by_one(limited: LiveService) -> None:
    last = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connected(limited, get("/health/live") * 300 + last) as client:
        assert received(client).count(b"HTTP/1.1 200 OK") == 301


# Clients that keep connections


def test_incomplete_requests_time_out_and_other_clients_connect(limited: LiveService, stalled: Json) -> None:
    head = b"POST /imports HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow = [b"", b"GET /imports HT", head, head + b"Content-Length: 100\r\n\r\n{", get("/health/live") + b"G"]
    with contextlib.ExitStack() as stack:
        events = stack.enter_context(limited.client.stream("GET", stalled["links"]["events"])).iter_bytes()
        clients = [
            stack.enter_context(connected(limited, slow[each % len(slow)])) for each in range(2 * CONNECTIONS)
        ]
        for client in clients:
            received(client)  # ends: beyond the limit at once, the others after the time limit
        with httpx.Client(base_url=limited.url, timeout=60, trust_env=False) as other:
            assert other.get("/health/live").status_code == 200
        assert b"retry" in next(events)  # a complete request does not time out


def test_an_idle_connection_outlives_the_time_limit_of_a_request(limited: LiveService) -> None:
    address = urlsplit(limited.url)
    kept = HTTPConnection(address.hostname or "", address.port or 0)
    with contextlib.closing(kept):
        kept.connect()
        connection = kept.sock
        for _ in range(2):
            kept.request("GET", "/health/live")
            assert kept.getresponse().read()
            with connected(limited, b"GET /imp") as slow:
                received(slow)  # until the time limit
            assert kept.sock is connection  # http.client has not connected again


def test_idle_connections_make_room_for_others(tmp_path: Path, database_url: str) -> None:
    with LiveService(tmp_path, database_url, limited=True) as live, contextlib.ExitStack() as stack:
        for _ in range(2 * CONNECTIONS):
            client = stack.enter_context(connected(live, get("/health/live")))
            assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_the_number_of_connections_is_limited(tmp_path: Path, database_url: str) -> None:
    with LiveService(tmp_path, database_url, {"LIMITED_SERVICE_SECONDS": "1000"}, limited=True) as live:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connected(live, b"")) for _ in range(2 * CONNECTIONS)]
            for client in clients[CONNECTIONS:]:
                assert received(client) == b""
            client = clients[0]
            client.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is open
                client.recv(1)

        def is_let_in() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return live.client.get("/health/live").is_success
            return False

        wait_for("a way in", is_let_in)


def test_a_client_that_sends_its_request_slowly_is_disconnected(limited: LiveService) -> None:
    with connected(limited, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: ") as client:

        def is_over() -> bool:
            try:
                client.sendall(b"x")
            except ConnectionError:
                return True
            return False

        wait_for("the service to hang up", is_over)


def test_the_number_of_watchers_is_limited_and_other_requests_are_answered(
    limited: LiveService, stalled: Json
) -> None:
    path = stalled["links"]["events"]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(connected(limited, get(path))) for _ in range(WATCHERS)]
        wait_for("the streams", lambda: limited.metric("importer_event_streams") == WATCHERS)
        for refused in (path, f"{stalled['links']['self']}?wait=30"):
            answer = limited.client.get(refused)
            assert_problem(answer, 503, "too_busy")
            assert int(answer.headers["retry-after"]) >= 1
        assert limited.client.get(stalled["links"]["self"]).status_code == 200

        streams[0].close()
        wait_for("a free place", lambda: limited.client.get(stalled["links"]["self"] + "?wait=1").is_success)
        limited.client.post(stalled["links"]["cancel"])
        for stream in streams[1:]:  # all receive the change
            wait_for("the change", lambda stream=stream: b'"state":"cancelled"' in stream.recv(65536))
    wait_for("the places", lambda: limited.metric("importer_event_streams") == 0)


def test_a_long_poll_frees_its_slot_when_its_client_disconnects(limited: LiveService, stalled: Json) -> None:
    path = stalled["links"]["self"]
    address = urlsplit(limited.url)
    polls = [HTTPConnection(address.hostname or "", address.port) for _ in range(WATCHERS)]
    with contextlib.ExitStack() as stack:
        for poll in polls:
            stack.callback(poll.close)
            assert answered(poll, path)["state"] == "queued"  # it is connected
        for poll in polls:
            poll.request("GET", f"{path}?wait=60")

        def is_full() -> bool:
            return limited.client.get(path, params={"wait": 1}).status_code == 503

        wait_for("the polls", is_full)
        first, *leaving = polls
        for poll in leaving:
            poll.close()
        wait_for("a free place", lambda: not is_full())
        first.sock.setblocking(False)
        with pytest.raises(BlockingIOError):  # it waits: the slots were not freed by a time limit
            first.sock.recv(1)
        first.sock.settimeout(60)
        limited.client.post(stalled["links"]["cancel"])
        assert json.load(first.getresponse())["state"] == "cancelled"
        assert answered(first, "/health/live") == {"status": "live"}


def answered(connection: HTTPConnection, path: str) -> Json:
    """Send a GET on an open connection; return the response."""
    connection.request("GET", path)
    return json.load(connection.getresponse())


@pytest.fixture(scope="module")
def rejecting(limited: LiveService, sample: bytes) -> Json:
    """A published import with more rejects than sockets can buffer."""
    header, rows = sample.split(b"\n", 1)
    with HttpServer(header + b"\n" + rows.replace(b",", b";")) as server:
        return limited.until_state(limited.submit(server.url, max_rejects="100%")["id"], "succeeded")


def listing_sessions(service: LiveService) -> int:
    statement = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'loader % rejects'"
    return len(query(service.database_url, statement))


def test_a_client_that_does_not_read_its_listing_is_disconnected(
    limited: LiveService, rejecting: Json
) -> None:
    path = rejecting["links"]["rejects_csv"]
    with contextlib.ExitStack() as stack:
        for _ in range(LISTINGS):
            stack.enter_context(connected(limited, get(path), window_bytes=4096))
        wait_for("the listings", lambda: listing_sessions(limited) == LISTINGS)
        assert_problem(limited.client.get(path), 503, "too_busy")
        wait_for("the service to give up on them", lambda: listing_sessions(limited) == 0)
        assert limited.client.get(path).content.count(b"\n") == SAMPLE_ROWS + 1


def test_a_client_that_does_not_read_its_events_is_disconnected(tmp_path: Path, database_url: str) -> None:
    with LiveService(
        tmp_path, database_url, {"LIMITED_SERVICE_LOADER": "misbehaving_loader.py"}, limited=True
    ) as live:
        talking = live.submit("http://localhost/waits")  # it reports twenty times a second
        live.until_phase(talking["id"], "loading")
        memory = psutil.Process(live.process.pid).memory_info().rss
        with contextlib.ExitStack() as stack:
            for _ in range(WATCHERS):
                stack.enter_context(connected(live, get(talking["links"]["events"]), window_bytes=4096))
            wait_for("the streams", lambda: live.metric("importer_event_streams") == WATCHERS)
            wait_for("the service to give up on them", lambda: live.metric("importer_event_streams") == 0)
        assert psutil.Process(live.process.pid).memory_info().rss < memory + 20_000_000
        live.client.post(talking["links"]["cancel"])
        live.until_state(talking["id"], "cancelled")


@pytest.mark.long
def test_a_thousand_event_streams_receive_a_change_and_end(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    count = 1000  # the limit
    with file_limit(2 * count), LiveService(tmp_path, database_url) as live:
        server.rule = lambda _: Fault(before="stall")
        submitted = [live.submit(server.url, force=True) for _ in range(3)]
        for each in submitted[:2]:
            live.until_phase(each["id"], "probing")
        with contextlib.ExitStack() as stack:
            request = get(submitted[2]["links"]["events"])
            streams = [stack.enter_context(connected(live, request)) for _ in range(count)]
            wait_for("the streams", lambda: live.metric("importer_event_streams") == count)
            assert_problem(live.client.get(submitted[2]["links"]["events"]), 503, "too_busy")
            live.client.post(submitted[2]["links"]["cancel"])
            received_changes = [b'"state":"cancelled"' in until_end(stream) for stream in streams]
        assert all(received_changes)
        wait_for("the places", lambda: live.metric("importer_event_streams") == 0)
        connections = psutil.Process(live.process.pid).net_connections("tcp")
        assert sum(each.status == psutil.CONN_ESTABLISHED for each in connections) < 10


@contextlib.contextmanager
def file_limit(count: int) -> Generator[None]:
    """Raise the limit on open files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 200:
        pytest.skip(f"the hard limit on open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def until_end(stream: socket.socket) -> bytes:
    """Read a chunked response to its last chunk."""
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        data = stream.recv(65536)
        assert data
        answer += data
    return answer


# Stop


def test_the_service_stops_in_time_with_any_open_requests(
    tmp_path: Path, database_url: str, sample: bytes
) -> None:
    header, rows = sample.split(b"\n", 1)
    with HttpServer(header + b"\n" + rows.replace(b",", b";")) as server, contextlib.ExitStack() as stack:
        live = LiveService(tmp_path, database_url, limited=True)
        stack.callback(live.kill)
        rejecting = live.until_state(live.submit(server.url, max_rejects="100%")["id"], "succeeded")
        server.rule = lambda _: Fault(before="stall")
        running = live.submit(server.url, force=True)
        live.until_phase(running["id"], "probing")
        for path in (running["links"]["events"], f"{running['links']['self']}?wait=60"):
            stack.enter_context(connected(live, get(path), window_bytes=4096))
        stack.enter_context(connected(live, get(rejecting["links"]["rejects_csv"]), window_bytes=4096))
        stack.enter_context(connected(live, b"GET /imports HT"))
        wait_for("the listing", lambda: listing_sessions(live) == 1)
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(SHUTDOWN_SECONDS) == 0


@pytest.mark.long
def test_the_service_stops_while_its_database_hangs(tmp_path: Path, database_url: str, sample: bytes) -> None:
    header, rows = sample.split(b"\n", 1)
    with (
        HttpServer(header + b"\n" + rows.replace(b",", b";")) as server,
        Proxy(database_url) as proxy,
        contextlib.ExitStack() as stack,
    ):
        live = LiveService(tmp_path, proxy.url, limited=True)
        stack.callback(live.kill)
        rejecting = live.until_state(live.submit(server.url, max_rejects="100%")["id"], "succeeded")
        listing = get(rejecting["links"]["rejects_csv"])
        stack.enter_context(connected(live, listing, window_bytes=4096))
        live.database_url = database_url
        wait_for("the listing", lambda: listing_sessions(live) == 1)
        proxy.loses_responses = True
        stack.enter_context(connected(live, listing))
        wait_for("the probe", lambda: live.client.get("/health/ready").status_code == 503)
        assert_problem(live.client.get("/health/ready"), 503, "not_ready")
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(HUNG_SHUTDOWN_SECONDS) == 0, live.log.read_text()
