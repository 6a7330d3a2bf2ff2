from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import threading
from pathlib import Path

import msgspec
import pytest
import trustme

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.client import HttpClient
from loader.http.connection import Dialer, SocketAddress
from loader.http.retry import TransientError
from loader.http.url import parse_url
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.loader_process import wait_for
from tests.support.source_reading import QUICK, opened, probe_and_read, read

CONTENT = b"hvfhs_license_num,dispatching_base_num\n" * 2_000
# What must not be seen anywhere: as user name, password, query and fragment.
CANARY = "s3cr3t-canary"


def failure_of(location: str) -> LoaderError:
    with pytest.raises(LoaderError) as caught:
        probe_and_read(location, msgspec.structs.replace(QUICK, attempts=2, probe_attempts=2))
    return caught.value


def redirect(location: str, status: int = 302) -> Fault:
    return Fault(status=status, headers={"Location": location})


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that this process trusts, as a user would have it: by SSL_CERT_FILE."""
    authority = trustme.CA()
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    return authority


def tls_context(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with authority.issue_cert(name).private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)
    return context


# --- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_once_and_remembered(status: int) -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [redirect("../else/where.csv?signed=1", status)]
        info, whole = probe_and_read(server.url)
    assert whole.data == CONTENT
    assert info.location == server.url
    targets = [request.target for request in server.requests]
    assert targets == ["/trips.csv", "/else/where.csv?signed=1", "/else/where.csv?signed=1"]


def test_five_redirects_are_followed_and_a_sixth_is_not() -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [redirect("/again")] * 5
        assert probe_and_read(server.url)[1].data == CONTENT
        server.rule = lambda _: redirect("/again")
        before = len(server.requests)
        assert failure_of(server.url).code is FailureCode.SOURCE_PROTOCOL
        assert len(server.requests) - before == 6


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_redirect_target_that_expires_is_requested_again(status: int) -> None:
    def rule(request: Request) -> Fault | None:
        if request.target == "/trips.csv":
            return redirect(f"/signed/{request.number}")
        return Fault(status=status) if request.number == 2 else None

    with HttpServer(CONTENT) as server:
        server.rule = rule
        _, whole = probe_and_read(server.url)
    assert whole.data == CONTENT
    targets = [request.target for request in server.requests]
    assert targets == ["/trips.csv", "/signed/0", "/signed/0", "/trips.csv", "/signed/3"]


def test_a_fresh_redirect_target_that_refuses_is_forbidden() -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda request: (
            redirect("/signed") if request.target == "/trips.csv" else Fault(status=403)
        )
        assert failure_of(server.url).code is FailureCode.SOURCE_FORBIDDEN
    # once more without a range, which the server may have refused
    assert [request.target for request in server.requests] == 2 * ["/trips.csv", "/signed"]


def test_a_redirect_with_raw_characters_is_followed_as_browsers_do() -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [redirect("/trips of 2024.csv?name=two words")]
        assert probe_and_read(server.url)[1].data == CONTENT
    assert server.requests[1].target == "/trips%20of%202024.csv?name=two%20words"


@pytest.mark.parametrize("location", ["ftp://localhost/x", "http://a b/", "//[::1", "http://\x85/"])
def test_a_redirect_to_no_web_url_is_refused(location: str) -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [redirect(location)]
        assert failure_of(server.url).code is FailureCode.SOURCE_PROTOCOL


def test_a_redirect_without_a_location_ends() -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda _: Fault(status=302)
        assert failure_of(server.url).code is FailureCode.SOURCE_PROTOCOL


def test_a_redirect_from_https_to_http_is_refused(authority: trustme.CA) -> None:
    with HttpServer(CONTENT) as plain, HttpServer(CONTENT, tls=tls_context(authority)) as secure:
        secure.faults = [redirect(plain.url)]
        assert failure_of(secure.url).code is FailureCode.SOURCE_PROTOCOL
        assert not plain.requests


# --- secrets


def test_credentials_are_sent_to_their_own_origin_only() -> None:
    with HttpServer(CONTENT) as own, HttpServer(CONTENT) as other:
        own.faults = [redirect("/here"), redirect(other.url)]
        probe_and_read(own.url.replace("://", "://ann:p%40ss%C3%BC@"))
    basic = "Basic " + base64.b64encode("ann:p@ssü".encode()).decode()
    assert [request.headers.get("authorization") for request in own.requests] == [basic, basic]
    assert {request.headers.get("authorization") for request in other.requests} == {None}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=404),
        Fault(status=403),
        Fault(status=503),
        Fault(before="reset"),
        Fault(headers={"Content-Range": "nonsense"}),
        Fault(headers={"Content-Encoding": "br"}),
        Fault(status=302, headers={"Location": f"/?{CANARY}"}),
        Fault(status=302, headers={"Location": f"ftp://{CANARY}@localhost/?{CANARY}"}),
        Fault(status=302, headers={"Location": f"http://{CANARY}@localhost:1/?{CANARY}#{CANARY}"}),
    ],
)
def test_no_secret_of_a_url_is_in_an_error(fault: Fault) -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda _: fault
        error = failure_of(f"{server.url}?{CANARY}#{CANARY}".replace("://", f"://{CANARY}:{CANARY}@"))
    while error is not None:  # what it came from is logged with it
        assert CANARY not in repr(error)
        error = error.__cause__ or error.__context__


def test_the_query_is_sent_but_not_shown() -> None:
    with HttpServer(CONTENT) as server:
        info, _ = probe_and_read(f"{server.url}?X-Signature={CANARY}#part")
    assert info.location == server.url
    assert server.requests[0].target == f"/trips.csv?X-Signature={CANARY}"
    assert "authorization" not in server.requests[0].headers


def test_what_a_server_claims_can_not_forge_a_line_of_a_log() -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [Fault(headers={"Content-Range": "bytes \x1b[2J\x85" + "9" * 1_000})]
        message = failure_of(server.url).failure.message
    assert message.isprintable()
    assert len(message) < 300


# --- TLS and the way there


def test_a_file_arrives_over_tls(authority: trustme.CA) -> None:
    with HttpServer(CONTENT, tls=tls_context(authority)) as server:
        info, whole = probe_and_read(server.url)
    assert info.location == server.url
    assert whole.data == CONTENT


def test_a_body_cut_off_under_tls_is_retried(authority: trustme.CA) -> None:
    with HttpServer(CONTENT, tls=tls_context(authority)) as server:
        server.faults = [None, Fault(body_bytes=1_000), Fault(before="reset")]
        assert probe_and_read(server.url)[1].data == CONTENT


def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with HttpServer(CONTENT) as server:
        assert probe_and_read(server.url)[1].data == CONTENT


def test_a_path_that_is_not_ascii_is_encoded() -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [redirect("/caf\xc3\xa9")]  # UTF-8, as servers send it
        probe_and_read(f"{server.origin}/fährten 2024%21".replace(" ", "%20"))
    assert [request.target for request in server.requests[:2]] == ["/f%C3%A4hrten%202024%21", "/caf%C3%A9"]


def test_a_source_can_be_read_while_another_is_open() -> None:
    with HttpServer(CONTENT) as server, opened(server.url) as one, opened(server.url) as two:
        one.probe()
        two.probe()
        two.close()
        assert read(one).data == CONTENT


def test_of_a_thousand_addresses_of_a_name_the_first_few_are_tried() -> None:
    tried: list[socket.socket] = []
    with socket.socket() as bound:  # bound and not listening: no response
        bound.bind(("127.0.0.1", 0))

        def resolve(_: str, port: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
            return [(socket.AF_INET, ("127.0.0.1", port))] * 1_000

        with pytest.raises(ConnectionRefusedError):
            Dialer(None, resolve).dial("many.example", bound.getsockname()[1], 10, tried.append)
    assert len(tried) == 8


def test_servers_that_redirects_once_led_to_do_not_keep_connections_for_ever() -> None:
    with contextlib.ExitStack() as stack:
        first, *others = (stack.enter_context(HttpServer(CONTENT)) for _ in range(21))
        first.rule = lambda request: redirect(others[request.number].url)
        closed = threading.Event()
        client = HttpClient(parse_url(first.url), Dialer(None), QUICK, closed)
        before = len(os.listdir("/dev/fd"))
        for other in others:  # each serves two requests at once, then redirects to the first
            other.rule = lambda request: Fault(status=503) if request.number > 1 else None
            for answer in [client.get({}), client.get({})]:
                answer.receive(memoryview(bytearray(len(CONTENT))))
                answer.finish()
            with pytest.raises(TransientError):
                client.get({})
        # both ends of a connection are this process's
        wait_for("connections to be closed", lambda: len(os.listdir("/dev/fd")) - before <= 2 * 16)
        client.close()
