from __future__ import annotations

import random

import msgspec
import pytest

from loader.buffers import SEGMENT_BYTES
from loader.contract import FailureCode
from loader.errors import LoaderError
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.source_reading import HEAD_BYTES, QUICK, opened, probe_and_read, read

CONTENT = random.Random(2).randbytes(SEGMENT_BYTES + 3_000_001)
SMALL = CONTENT[:50_000]
MODIFIED = "Mon, 01 Jan 2024 00:00:00 GMT"


def test_a_server_without_ranges_is_read_as_one_stream() -> None:
    with HttpServer(CONTENT, ranges=False) as server:
        info, whole = probe_and_read(server.url)
    assert (info.size_bytes, info.validator, info.resumable) == (len(CONTENT), '"v1"', True)
    assert (info.head, info.head_is_whole) == (CONTENT[:HEAD_BYTES], False)
    assert (whole.data, whole.source_bytes, whole.length_verified) == (CONTENT, len(CONTENT), True)
    assert len(server.requests) == 1  # the probe's response continues


@pytest.mark.parametrize("etag", [None, 'W/"v1"', "v1", '"v\r\n 1"', '"v\x851"'])
def test_ranges_that_nothing_proves_to_be_of_one_file_are_not_used(etag: str | None) -> None:
    with HttpServer(CONTENT, etag=etag) as server:
        info, whole = probe_and_read(server.url)
    assert (info.validator, info.resumable) == (None, False)
    assert (whole.data, whole.length_verified) == (CONTENT, True)
    assert [request.first for request in server.requests] == [0, None]


def test_ranges_of_an_unknown_total_are_not_used() -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [Fault(headers={"Content-Range": f"bytes 0-{HEAD_BYTES - 1}/*"})]
        info, whole = probe_and_read(server.url)
    assert info.size_bytes is None
    assert (whole.data, whole.length_verified) == (CONTENT, True)
    assert [request.first for request in server.requests] == [0, None]


def test_a_last_modified_date_proves_a_file_where_a_weak_etag_does_not() -> None:
    with HttpServer(CONTENT, etag='W/"v1"', last_modified=MODIFIED) as server:
        info, whole = probe_and_read(server.url)
    assert (info.validator, info.resumable) == (MODIFIED, True)
    assert whole.data == CONTENT
    assert server.requests[1].headers["if-unmodified-since"] == MODIFIED


NOW = "Mon, 01 Jan 2024 12:00:00 GMT"


@pytest.mark.parametrize(
    ("modified", "date", "is_strong"),
    [
        ("Mon, 01 Jan 2024 11:59:59 GMT", NOW, True),
        (NOW, NOW, False),
        ("Mon, 01 Jan 2024 12:00:01 GMT", NOW, False),
        (NOW, None, True),  # a response without Date is of now
        (NOW, "yesterday", True),
        ("Tue, 31 Dec 2999 23:59:59 GMT", None, False),
        ("yesterday", NOW, False),
        ("9" * 5_000, NOW, False),
    ],
)
def test_a_date_less_than_a_second_old_proves_nothing(
    modified: str, date: str | None, is_strong: bool
) -> None:
    with HttpServer(SMALL, etag=None, last_modified=modified) as server:
        server.rule = lambda _: Fault(headers={"Date": date})
        info, whole = probe_and_read(server.url)
    assert (info.validator, info.resumable) == ((modified, True) if is_strong else (None, False))
    assert whole.data == SMALL


@pytest.mark.parametrize("status", [400, 403, 405, 406, 416, 501])
def test_a_server_that_refuses_ranges_is_read_as_one_stream(status: int) -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda request: (
            None if request.first is None else Fault(status=status, body=b"no ranges")
        )
        info, whole = probe_and_read(server.url)
    assert (info.size_bytes, info.validator, info.resumable) == (len(CONTENT), '"v1"', True)
    assert (whole.data, whole.length_verified) == (CONTENT, True)
    assert [request.first for request in server.requests] == [0, None]


def test_a_refusal_behind_a_redirect_starts_again_from_the_url() -> None:
    def rule(request: Request) -> Fault | None:
        if request.target == "/trips.csv":
            return Fault(status=302, headers={"Location": f"/signed/{request.number}"})
        return None if request.first is None else Fault(status=403)

    with HttpServer(SMALL) as server:
        server.rule = rule
        assert probe_and_read(server.url)[1].data == SMALL
    targets = [request.target for request in server.requests]
    assert targets == ["/trips.csv", "/signed/0", "/trips.csv", "/signed/2"]


@pytest.mark.parametrize("headers", [{"Retry-After": "0"}, {}])
def test_a_file_that_is_not_ready_is_waited_for(
    headers: dict[str, str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    with HttpServer(SMALL) as server:
        server.faults = [*(QUICK.probe_attempts + 2) * [Fault(status=202, headers=headers, body=b"{}")]]
        info, whole = probe_and_read(server.url)
    assert (info.size_bytes, whole.data) == (len(SMALL), SMALL)
    assert "202 Accepted" in capsys.readouterr().err


def test_a_file_that_does_not_become_ready_ends_the_wait_as_retryable() -> None:
    short = msgspec.structs.replace(QUICK, max_requested_wait_seconds=0.1)
    with HttpServer(SMALL) as server:
        server.rule = lambda _: Fault(status=202)
        with pytest.raises(LoaderError) as caught:
            probe_and_read(server.url, short)
    assert caught.value.code is FailureCode.SOURCE_UNREACHABLE
    assert "not ready" in caught.value.failure.message


def test_the_middle_of_a_stream_is_reached_by_skipping() -> None:
    with HttpServer(CONTENT, ranges=False) as server, opened(server.url) as source:
        source.probe()
        assert read(source, 5_000_000, 6_000_000).data == CONTENT[5_000_000:6_000_000]
        assert read(source, 10_000_000).data == CONTENT[10_000_000:]
        assert len(server.requests) == 1
        assert read(source, 100, 200).data == CONTENT[100:200]  # starts over, proven by the ETag
        assert len(server.requests) == 2
        server.etag = '"v2"'
        with pytest.raises(LoaderError) as caught:
            read(source, 100, 200)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


def test_a_chunked_body_has_no_size_but_a_verified_end() -> None:
    with HttpServer(CONTENT, ranges=False) as server:
        server.faults = [Fault(framing="chunked")]
        info, whole = probe_and_read(server.url)
    assert info.size_bytes is None
    assert (whole.data, whole.length_verified) == (CONTENT, True)


def test_a_body_that_ends_with_its_connection_has_no_verified_end() -> None:
    with HttpServer(CONTENT, ranges=False) as server:
        server.faults = [Fault(framing="close", body_bytes=len(CONTENT) - 1)]
        info, whole = probe_and_read(server.url)
    assert info.size_bytes is None
    assert (whole.data, whole.length_verified) == (CONTENT[:-1], False)


@pytest.mark.parametrize("length", [HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1])
def test_a_stream_without_a_size_knows_whether_its_head_is_all(length: int) -> None:
    with HttpServer(CONTENT[:length], ranges=False) as server:
        server.faults = [Fault(framing="chunked")]
        info, whole = probe_and_read(server.url)
    assert info.head == CONTENT[: min(length, HEAD_BYTES)]
    assert info.head_is_whole == (length <= HEAD_BYTES)
    assert whole.data == CONTENT[:length]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(body_bytes=5_000_000), FailureCode.SOURCE_TRUNCATED),
        (
            Fault(headers={"Content-Length": "6000001", "Connection": "close"}),
            FailureCode.SOURCE_TRUNCATED,
        ),
        (Fault(body_bytes=5_000_000, framing="chunked"), FailureCode.SOURCE_TRUNCATED),
        (Fault(body_bytes=5_000_000, then="reset"), FailureCode.SOURCE_UNREACHABLE),
        (
            Fault(body_bytes=5_000_000, then="reset", framing="chunked"),
            FailureCode.SOURCE_UNREACHABLE,
        ),
    ],
)
def test_a_stream_that_breaks_ends_the_import_as_retryable(fault: Fault, code: FailureCode) -> None:
    with HttpServer(CONTENT[:6_000_000], ranges=False) as server, opened(server.url) as source:
        server.faults = [fault]
        source.probe()
        for _ in range(2):  # a broken stream stays broken, it does not seem to end
            with pytest.raises(LoaderError) as caught:
                read(source)
            assert caught.value.code is code
            assert caught.value.failure.retryable
    assert len(server.requests) == 1


def test_another_size_in_the_second_request_is_source_changed() -> None:
    with HttpServer(SMALL, etag=None) as server, opened(server.url) as source:
        source.probe()
        server.content = CONTENT
        with pytest.raises(LoaderError) as caught:
            read(source)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


def test_a_length_that_one_response_announces_holds_for_the_next() -> None:
    with HttpServer(SMALL, ranges=False) as server, opened(server.url) as source:
        server.faults = [
            Fault(framing="chunked"),
            None,
            Fault(headers={"Content-Length": str(len(SMALL) - 1)}),
        ]
        source.probe()
        assert read(source).data == SMALL
        assert read(source).data == SMALL
        with pytest.raises(LoaderError) as caught:
            read(source)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


def test_a_second_request_may_fail_and_be_retried() -> None:
    with HttpServer(SMALL, etag=None) as server:
        server.faults = [None, Fault(status=503), Fault(before="reset")]
        _, whole = probe_and_read(server.url)
    assert whole.data == SMALL


def test_a_range_in_place_of_the_whole_file_is_a_protocol_error() -> None:
    with HttpServer(SMALL, etag=None) as server:
        server.faults = [None, Fault(status=206)]
        with pytest.raises(LoaderError) as caught:
            probe_and_read(server.url)
    assert caught.value.code is FailureCode.SOURCE_PROTOCOL
