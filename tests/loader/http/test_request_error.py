"""What a broken request is reported as: by the codes of TLS and the types of exceptions, each with what to do next."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import socket
import socketserver
import ssl
import threading
from collections.abc import Generator

import msgspec
import pytest
import trustme

from loader.contract import Failure, FailureCode
from loader.errors import LoaderError
from loader.http.connection import ConnectTimeout, LowSpeed
from loader.http.request_error import request_error
from loader.http.retry import TransientError
from loader.http.url import parse_url
from loader.limits import Limits, RetryPolicy
from tests.support.http_server import Fault, HttpServer
from tests.support.source_reading import QUICK, probe_and_read

CONTENT = b"hvfhs_license_num,dispatching_base_num\n" * 2_000
DAY = datetime.timedelta(days=1)


def failure_of(location: str, retry_policy: RetryPolicy = QUICK) -> Failure:
    with pytest.raises(LoaderError) as caught:
        probe_and_read(location, retry_policy)
    return caught.value.failure


def served_with(certificate: trustme.LeafCert) -> HttpServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with certificate.private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)
    return HttpServer(CONTENT, tls=context)


@contextlib.contextmanager
def responding(response: bytes) -> Generator[int]:
    """Yield the port of a server that sends this to everybody, whatever comes."""

    class Handler(socketserver.BaseRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(response)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


# --- certificates


def test_an_expired_certificate_is_for_the_clock_or_the_servers_operator(authority: trustme.CA) -> None:
    now = datetime.datetime.now(datetime.UTC)
    with served_with(authority.issue_cert("localhost", not_after=now - DAY)) as server:
        failure = failure_of(server.url)
    assert failure.code is FailureCode.SOURCE_UNREACHABLE
    assert "has expired" in failure.message
    assert "clock" in failure.hint
    assert "SSL_CERT_FILE" not in failure.hint
    assert not server.requests


def test_a_certificate_of_the_future_is_for_the_clock(authority: trustme.CA) -> None:
    now = datetime.datetime.now(datetime.UTC)
    with served_with(authority.issue_cert("localhost", not_before=now + DAY)) as server:
        failure = failure_of(server.url)
    assert "not valid yet" in failure.message
    assert "clock" in failure.hint


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_of_another_name_is_for_the_url(authority: trustme.CA, host: str) -> None:
    with served_with(authority.issue_cert("elsewhere.example")) as server:
        failure = failure_of(server.url.replace("localhost", host))
    assert f"another name than {host}" in failure.message
    assert "host in the URL" in failure.hint
    assert not server.requests


def test_a_certificate_of_an_unknown_authority_is_for_ssl_cert_file() -> None:
    with served_with(trustme.CA().issue_cert("localhost")) as server:
        failure = failure_of(server.url)
        assert server.connection_count <= 1  # reported at once, not retried
    assert failure.code is FailureCode.SOURCE_UNREACHABLE
    assert "authority" in failure.message
    assert "SSL_CERT_FILE" in failure.hint


@pytest.mark.parametrize(
    ("verify_code", "part"), [(18, "self-signed"), (19, "self-signed"), (21, "not known"), (23, "revoked")]
)
def test_other_flaws_of_a_certificate_are_named(verify_code: int, part: str) -> None:
    error = ssl.SSLCertVerificationError(1, "text that is never shown")
    error.verify_code, error.verify_message = verify_code, "certificate revoked"
    failure = request_error(error, parse_url("https://example.org/trips.csv"), RetryPolicy())
    assert isinstance(failure, LoaderError)
    assert part in failure.failure.message
    assert "never shown" not in failure.failure.message


# --- the other protocol


def test_plain_http_on_an_https_port_is_reported_at_once() -> None:
    with responding(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        failure = failure_of(f"https://127.0.0.1:{port}/trips.csv?canary")
    assert failure.code is FailureCode.SOURCE_PROTOCOL
    assert f"does not speak TLS on port {port}" in failure.message
    assert "http://" in failure.hint
    assert "canary" not in failure.message + failure.hint


def test_https_on_an_http_port_is_recognized_by_the_alert() -> None:
    with responding(b"\x15\x03\x01\x00\x02\x02\x46") as port:
        failure = failure_of(f"http://127.0.0.1:{port}/trips.csv")
    assert failure.code is FailureCode.SOURCE_PROTOCOL
    assert "expects TLS" in failure.message
    assert "https://" in failure.hint


def test_a_bad_request_over_http_may_be_for_https() -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda _: Fault(status=400, body=b"Client sent an HTTP request to an HTTPS server.\n")
        failure = failure_of(server.url)
    assert failure.code is FailureCode.SOURCE_PROTOCOL
    assert "https://" in failure.hint


@pytest.mark.parametrize("error", [ConnectionResetError(), http.client.RemoteDisconnected("")])
@pytest.mark.parametrize(
    ("location", "is_suspect"),
    [("http://a:443/", True), ("http://a:8443/", True), ("http://a/", False), ("https://a:8443/", False)],
)
def test_no_response_to_http_on_another_port_may_be_for_https(
    error: OSError, location: str, is_suspect: bool
) -> None:
    failure = request_error(error, parse_url(location), RetryPolicy())
    assert isinstance(failure, TransientError)
    assert ("https://" in failure.error.failure.hint) == is_suspect


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("TLSV1_ALERT_PROTOCOL_VERSION", "1.2"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "client certificate"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
    ],
)
def test_other_failures_of_tls_are_named_by_their_reason(reason: str, part: str) -> None:
    error = ssl.SSLError(1, "text that is never shown")
    error.reason = reason
    failure = request_error(error, parse_url("https://a/"), RetryPolicy())
    found = failure.error if isinstance(failure, TransientError) else failure
    assert part in found.failure.message
    assert "never shown" not in found.failure.message


# --- time limits


def test_a_slow_first_byte_is_reported_with_the_setting() -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda _: Fault(before="stall")
        policy = msgspec.structs.replace(QUICK, probe_attempts=1, read_timeout_seconds=0.2)
        failure = failure_of(server.url, policy)
    assert failure.code is FailureCode.SOURCE_UNREACHABLE
    assert "no byte for 0.2 s" in failure.message
    assert "--read-timeout" in failure.hint
    assert "IMPORTER_READ_TIMEOUT_SECONDS" in failure.hint


def test_a_slow_first_byte_is_no_low_speed() -> None:
    policy = msgspec.structs.replace(
        QUICK,
        attempts=1,
        probe_attempts=1,
        low_speed_limit_bytes_per_second=1e9,
        low_speed_window_seconds=0.2,
    )
    with HttpServer(CONTENT) as server:
        server.rule = lambda _: Fault(latency_seconds=0.3)
        assert probe_and_read(server.url, policy)[1].data == CONTENT


@pytest.mark.parametrize(("seconds", "window_seconds"), [(60, 60), (10, 30)])
def test_a_pause_that_the_read_timeout_allows_is_no_low_speed(seconds: int, window_seconds: int) -> None:
    policy = Limits().with_read_timeout(seconds).retry_policy
    assert (policy.read_timeout_seconds, policy.low_speed_window_seconds) == (seconds, window_seconds)


def test_each_time_limit_has_its_own_message() -> None:
    url = parse_url("http://example.org:81/trips.csv?canary")
    messages = list[str]()
    for error in (ConnectTimeout(), LowSpeed(), TimeoutError()):
        failure = request_error(error, url, RetryPolicy())
        assert isinstance(failure, TransientError)
        messages.append(failure.error.failure.message)
    assert messages == [
        "http://example.org:81/trips.csv: no connection to port 81 within 10 s",
        "http://example.org:81/trips.csv: the server sends less than 1,024 bytes per second",
        "http://example.org:81/trips.csv: the server sent no byte for 30 s",
    ]
