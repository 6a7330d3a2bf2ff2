from __future__ import annotations

import random
import threading

import msgspec
import pytest

from loader.buffers import SEGMENT_BYTES
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import RetryPolicy
from loader.source.base import TAIL_BYTES
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.source_reading import HEAD_BYTES, QUICK, opened, probe_and_read, read

CONTENT = random.Random(1).randbytes(2 * SEGMENT_BYTES + 1_000_003)
SMALL = CONTENT[:50_000]
MODIFIED = "Mon, 01 Jan 2024 00:00:00 GMT"


def failure_of(location: str, retry_policy: RetryPolicy = QUICK) -> LoaderError:
    with pytest.raises(LoaderError) as caught:
        probe_and_read(location, retry_policy)
    return caught.value


# The requests of a probe: for the head, and for the tail of a file that is larger.
PROBE = 2


def after_probe(fault: Fault) -> list[Fault | None]:
    """Let the second request fail, the first behind the probe of a file that is all head."""
    return [None, fault]


# --- ranges


def test_a_file_arrives_whole_and_in_order_by_ranges() -> None:
    with HttpServer(CONTENT) as server:
        info, whole = probe_and_read(server.url)
    assert info.location == server.url
    assert (info.size_bytes, info.validator, info.compression) == (len(CONTENT), '"v1"', None)
    assert info.resumable
    assert (info.head, info.head_is_whole) == (CONTENT[:HEAD_BYTES], False)
    assert whole.data == CONTENT
    assert whole.source_bytes == len(CONTENT)
    assert whole.length_verified
    assert [request.first for request in server.requests[:PROBE]] == [0, len(CONTENT) - TAIL_BYTES]
    # a machine that stalls may ask for the last in pieces
    assert {0, SEGMENT_BYTES, 2 * SEGMENT_BYTES} <= {request.first for request in server.requests[PROBE:]}


def test_the_wire_carries_identity_encoding_and_the_probed_etag() -> None:
    with HttpServer(SMALL) as server:
        probe_and_read(server.url)
    assert [request.headers["accept-encoding"] for request in server.requests] == ["identity", "identity"]
    assert server.requests[1].headers["if-match"] == '"v1"'


def test_ranges_are_in_flight_side_by_side() -> None:
    both = threading.Barrier(2, timeout=30)

    def rule(request: Request) -> None:
        if request.number in (PROBE, PROBE + 1):
            both.wait()  # passes only when the other one is in flight too

    with HttpServer(CONTENT) as server:
        server.rule = rule
        _, whole = probe_and_read(server.url)
    assert whole.data == CONTENT
    assert not both.broken
    assert server.most_at_once >= 2


def test_a_slow_source_is_read_in_pieces_by_more_connections() -> None:
    # two segments by those it begins with, and two pieces of the third, which is all that three buffers allow
    four = threading.Barrier(4, timeout=30)

    def rule(request: Request) -> None:
        if PROBE <= request.number < PROBE + 4:
            four.wait()

    with HttpServer(CONTENT + CONTENT) as server, opened(server.url, connections=2) as source:
        server.rule = rule
        source.probe()
        assert read(source, buffers=3).data == CONTENT + CONTENT
    assert not four.broken
    pieces = [request.first for request in server.requests[PROBE + 2 : PROBE + 4]]
    assert sorted(first // SEGMENT_BYTES for first in pieces if first is not None) == [2, 2]


def test_a_server_that_takes_few_connections_of_a_client_is_asked_by_as_many() -> None:
    """As nginx does by limit_conn: here two at once."""
    refused: list[int] = []

    def rule(request: Request) -> Fault | None:
        if server.at_once > 2:
            refused.append(request.number)
            return Fault(status=503)
        return None

    with HttpServer(3 * CONTENT) as server, opened(server.url, connections=4) as source:
        source.probe()
        server.rule = rule
        assert read(source, buffers=6).data == 3 * CONTENT
    assert 0 < len(refused) < 10


def test_one_buffer_is_enough_for_many_connections() -> None:
    with HttpServer(CONTENT) as server, opened(server.url, connections=4) as source:
        source.probe()
        assert read(source, buffers=1).data == CONTENT


def test_a_part_of_the_file_can_be_read_and_then_another() -> None:
    with HttpServer(CONTENT) as server, opened(server.url) as source:
        source.probe()
        assert read(source, 5_000_000, 15_000_000).data == CONTENT[5_000_000:15_000_000]
        assert read(source, 100, 200).data == CONTENT[100:200]
        assert read(source, len(CONTENT) - 10).data == CONTENT[-10:]
        assert read(source, 7, 7).data == b""


def test_connections_are_kept_between_ranges() -> None:
    with HttpServer(CONTENT) as server, opened(server.url, connections=1) as source:
        source.probe()
        read(source)
    assert len(server.requests) == PROBE + 3
    assert server.connection_count == 1


def test_an_idle_connection_that_the_server_closed_is_no_failure() -> None:
    no_retries = msgspec.structs.replace(QUICK, attempts=1)
    with HttpServer(SMALL) as server, opened(server.url, retry_policy=no_retries) as source:
        source.probe()
        server.drop_connections()
        assert read(source).data == SMALL


def test_a_file_smaller_than_the_head_is_all_head() -> None:
    with HttpServer(SMALL) as server:
        info, whole = probe_and_read(server.url)
    assert (info.head, info.head_is_whole) == (SMALL, True)
    assert whole.data == SMALL


def test_a_server_may_send_less_than_was_asked_for() -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda _: Fault(range_bytes=3_000_000)
        _, whole = probe_and_read(server.url)
    assert whole.data == CONTENT


# --- transient failures are retried


@pytest.mark.parametrize(
    "fault",
    [
        Fault(body_bytes=3_000_000, then="reset"),
        Fault(body_bytes=3_000_000),
        Fault(body_bytes=0, then="reset"),
        Fault(before="reset"),
        Fault(before="close"),
        Fault(status=429),
        Fault(status=500),
        Fault(status=503),
        Fault(ignore_range=True),
        Fault(headers={"ETag": None}),
        Fault(framing="chunked", body_bytes=3_000_000),
    ],
)
def test_a_failure_of_one_range_is_retried_alone(fault: Fault) -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [*[None] * PROBE, fault]
        _, whole = probe_and_read(server.url)
    assert whole.data == CONTENT
    assert len(server.requests) == PROBE + 4


def test_a_retry_continues_where_the_body_broke() -> None:
    with HttpServer(CONTENT) as server, opened(server.url, connections=1) as source:
        source.probe()
        server.faults = [Fault(body_bytes=3_000_000)]
        read(source, 0, SEGMENT_BYTES)
    assert [request.first for request in server.requests[PROBE:]] == [0, 2 << 20]


@pytest.mark.parametrize("fault", [Fault(before="stall"), Fault(body_bytes=1_000, then="stall")])
def test_a_silent_stall_is_noticed(fault: Fault) -> None:
    with HttpServer(SMALL) as server:
        server.faults = after_probe(fault)
        _, whole = probe_and_read(server.url, msgspec.structs.replace(QUICK, read_timeout_seconds=0.5))
    assert whole.data == SMALL
    assert len(server.requests) == 3


def test_a_trickling_server_is_noticed() -> None:
    floor = msgspec.structs.replace(
        QUICK, low_speed_limit_bytes_per_second=100_000, low_speed_window_seconds=0.2
    )
    with HttpServer(SMALL) as server:
        server.faults = after_probe(Fault(trickle_seconds=0.01))
        _, whole = probe_and_read(server.url, floor)
    assert whole.data == SMALL
    assert len(server.requests) == 3


def test_a_slow_server_above_the_floor_is_waited_for() -> None:
    floor = msgspec.structs.replace(QUICK, low_speed_limit_bytes_per_second=1, low_speed_window_seconds=0.05)
    with HttpServer(SMALL[:50]) as server:
        server.faults = after_probe(Fault(trickle_seconds=0.01))
        _, whole = probe_and_read(server.url, floor)
    assert whole.data == SMALL[:50]
    assert len(server.requests) == 2


def test_a_server_that_keeps_failing_is_unreachable_and_the_import_retryable() -> None:
    with HttpServer(SMALL) as server:
        server.rule = lambda request: Fault(status=503) if request.number > 0 else None
        error = failure_of(server.url)
    assert error.code is FailureCode.SOURCE_UNREACHABLE
    assert error.failure.retryable
    assert "503" in error.failure.message
    assert len(server.requests) == 1 + QUICK.attempts


def test_the_budget_refills_when_bytes_come() -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda request: Fault(body_bytes=1_200_000) if request.number > 0 else None
        _, whole = probe_and_read(server.url)
    assert whole.data == CONTENT
    assert len(server.requests) > PROBE + 3 * QUICK.attempts


def test_a_few_bytes_at_a_time_do_not_refill_the_budget() -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda request: Fault(body_bytes=1_000) if request.number > 0 else None
        assert failure_of(server.url).code is FailureCode.SOURCE_TRUNCATED


def test_one_byte_per_response_is_too_little_also_without_a_total() -> None:
    def rule(request: Request) -> Fault | None:
        first = request.first
        told = {"Content-Range": f"bytes {first}-{first}/*"}
        return Fault(range_bytes=1, headers=told) if request.number > 0 else None

    with HttpServer(SMALL[:1_000]) as server:
        server.rule = rule
        assert failure_of(server.url).code is FailureCode.SOURCE_PROTOCOL
    assert len(server.requests) == 1 + QUICK.attempts


def test_a_server_that_fails_at_the_probe_is_asked_again() -> None:
    with HttpServer(SMALL) as server:
        server.faults = [Fault(status=503), Fault(before="reset")]
        _, whole = probe_and_read(server.url)
    assert whole.data == SMALL


def test_a_closed_port_is_unreachable() -> None:
    with HttpServer(SMALL) as server:
        url = server.url
    assert failure_of(url).code is FailureCode.SOURCE_UNREACHABLE


def test_a_response_that_is_not_http_is_unreachable() -> None:
    with HttpServer(SMALL) as server:
        server.rule = lambda _: Fault(status=200, headers={f"X-{number}": "x" for number in range(200)})
        assert failure_of(server.url).code is FailureCode.SOURCE_UNREACHABLE


# --- responses that contradict earlier ones


@pytest.mark.parametrize(
    "fault",
    [
        Fault(headers={"ETag": '"v2"'}),
        Fault(headers={"ETag": 'W/"v1"'}),
        Fault(ignore_range=True, headers={"ETag": '"v2"'}),
        Fault(ignore_range=True, headers={"Content-Length": str(len(SMALL) - 1)}),
        Fault(headers={"Content-Range": f"bytes 0-{len(SMALL) - 1}/{len(SMALL) + 1}"}),
        Fault(status=416, headers={"Content-Range": "bytes */10"}),
    ],
)
def test_another_file_at_the_url_is_source_changed(fault: Fault) -> None:
    with HttpServer(SMALL) as server:
        server.faults = after_probe(fault)
        assert failure_of(server.url).code is FailureCode.SOURCE_CHANGED


@pytest.mark.parametrize("validator", ["etag", "last_modified"])
def test_a_file_that_changes_after_the_probe_is_source_changed(validator: str) -> None:
    with HttpServer(SMALL, etag=None) as server:
        setattr(server, validator, '"v1"' if validator == "etag" else MODIFIED)
        with opened(server.url) as source:
            source.probe()
            setattr(server, validator, '"v2"' if validator == "etag" else "Tue, 02 Jan 2024 00:00:00 GMT")
            with pytest.raises(LoaderError) as caught:
                read(source)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


@pytest.mark.parametrize(
    "fault",
    [
        Fault(headers={"Content-Range": f"bytes 1-{len(SMALL)}/{len(SMALL)}"}),
        Fault(headers={"Content-Range": f"bytes 0-{len(SMALL)}/{len(SMALL)}"}),
        Fault(headers={"Content-Range": f"bytes 10-9/{len(SMALL)}"}),
        Fault(headers={"Content-Range": "rows 1-2/3"}),
        Fault(headers={"Content-Range": None}),
        Fault(headers={"Content-Range": f"bytes 0-{'9' * 5_000}/{'9' * 5_000}"}),
        Fault(headers={"Content-Length": str(len(SMALL) - 1)}),
        Fault(headers={"Content-Length": str(len(SMALL) + 1)}),
        Fault(status=205),
        Fault(status=409),
        Fault(headers={"Content-Encoding": "br"}),
    ],
)
@pytest.mark.parametrize("at_probe", [True, False])
def test_a_response_that_contradicts_itself_is_a_protocol_error(fault: Fault, at_probe: bool) -> None:
    with HttpServer(SMALL) as server:
        server.faults = [fault] if at_probe else after_probe(fault)
        assert failure_of(server.url).code is FailureCode.SOURCE_PROTOCOL


@pytest.mark.parametrize("fault", [Fault(ignore_range=True), Fault(headers={"ETag": None})])
def test_a_server_that_forgets_what_it_promised_is_a_protocol_error(fault: Fault) -> None:
    with HttpServer(SMALL) as server:
        server.rule = lambda request: fault if request.number > 0 else None
        assert failure_of(server.url).code is FailureCode.SOURCE_PROTOCOL
    assert len(server.requests) == 1 + QUICK.attempts


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, FailureCode.SOURCE_FORBIDDEN),
        (403, FailureCode.SOURCE_FORBIDDEN),
        (404, FailureCode.SOURCE_NOT_FOUND),
        (410, FailureCode.SOURCE_NOT_FOUND),
    ],
)
@pytest.mark.parametrize("at_probe", [True, False])
def test_a_refusal_is_reported_at_once(status: int, code: FailureCode, at_probe: bool) -> None:
    with HttpServer(SMALL) as server:
        server.rule = lambda request: Fault(status=status) if at_probe or request.number > 0 else None
        error = failure_of(server.url)
    assert error.code is code
    assert str(status) in error.failure.message
    # a server may refuse a range with 403: it is asked once without
    assert len(server.requests) == (1 if at_probe and status != 403 else 2)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_empty_file_is_reported_at_the_probe(ranges: bool) -> None:
    with HttpServer(b"", ranges=ranges) as server:
        assert failure_of(server.url).code is FailureCode.EMPTY_FILE


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=416),
        Fault(status=416, headers={"Content-Range": "bytes */0"}),
        Fault(status=206),
        Fault(status=206, headers={"Content-Range": "bytes */0"}),
        Fault(status=206, headers={"Content-Range": "bytes 0--1/0"}, framing="chunked"),
        Fault(status=206, headers={"Content-Range": "bytes 0-0/0"}, framing="close"),
        Fault(status=204),
    ],
)
def test_a_range_of_an_empty_file_is_reported_as_that(fault: Fault) -> None:
    with HttpServer(b"", ranges=False) as server:
        server.faults = [fault]
        assert failure_of(server.url).code is FailureCode.EMPTY_FILE


def test_a_file_whose_etag_differs_in_one_response_only_is_read_from_the_others() -> None:
    with HttpServer(SMALL) as server:
        server.faults = after_probe(Fault(status=412))  # of a node with another ETag
        assert probe_and_read(server.url)[1].data == SMALL
    assert [request.headers.get("if-match") for request in server.requests] == [None, '"v1"', None]


def test_another_file_behind_a_412_is_source_changed() -> None:
    with HttpServer(SMALL) as server, opened(server.url) as source:
        source.probe()
        server.etag = '"v2"'
        with pytest.raises(LoaderError) as caught:
            read(source)
    assert caught.value.code is FailureCode.SOURCE_CHANGED
    assert """'"v1"' and is '"v2"'""" in caught.value.failure.message
