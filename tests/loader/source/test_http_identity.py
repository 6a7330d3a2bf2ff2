"""What tells one file from another of equal size and validator: the digest of the bytes that the probe reads."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.source.base import TAIL_BYTES, digest_of
from loader.source.open import SourceInfo
from tests.support.http_server import Fault, HttpServer
from tests.support.source_reading import HEAD_BYTES, QUICK, opened, probe_and_read, read

CONTENT = random.Random(4).randbytes(1_000_000)
SMALL = CONTENT[: HEAD_BYTES + 1_000]  # its tail is all that follows the head
TINY = CONTENT[:10_000]
HEAD, TAIL = CONTENT[:HEAD_BYTES], CONTENT[-TAIL_BYTES:]


def probed(location: str) -> SourceInfo:
    with opened(location) as source:
        return source.probe()


def served(content: bytes, *, ranges: bool = True) -> str | None:
    with HttpServer(content, ranges=ranges) as server:
        return probed(server.url).digest


def changed_at(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("place", [0, HEAD_BYTES - 1, len(CONTENT) - TAIL_BYTES, len(CONTENT) - 1])
def test_files_of_one_size_and_etag_differ_by_head_or_tail(place: int, tmp_path: Path) -> None:
    other = changed_at(CONTENT, place)
    assert served(other) != served(CONTENT)
    path = tmp_path / "trips.csv"
    path.write_bytes(CONTENT)
    os.utime(path, (1, 1))
    before = probed(str(path))
    path.write_bytes(other)
    os.utime(path, (1, 1))
    after = probed(str(path))
    assert (before.size_bytes, before.validator) == (after.size_bytes, after.validator)
    assert before.digest != after.digest


@pytest.mark.parametrize("content", [CONTENT, SMALL, TINY], ids=["large", "small", "tiny"])
def test_the_digest_is_the_same_however_the_bytes_are_served(content: bytes, tmp_path: Path) -> None:
    digest = served(content)
    assert digest is not None
    assert digest == digest_of(content[:HEAD_BYTES], content[HEAD_BYTES:][-TAIL_BYTES:])
    (tmp_path / "trips.csv").write_bytes(content)
    assert probed(str(tmp_path / "trips.csv")).digest == digest
    with HttpServer(content) as server:
        server.rule = lambda _: Fault(range_bytes=100_000)  # less than was asked for
        assert probed(server.url).digest == digest
    by_stream = served(content, ranges=False)
    assert by_stream == digest_of(content[:HEAD_BYTES], b"")
    assert by_stream is not None
    assert digest.startswith(by_stream)


@pytest.mark.parametrize(
    "faults",
    [
        2 * [Fault(status=503)],
        [Fault(status=403)],
        [Fault(status=416)],
        3 * [Fault(before="reset")],  # the first is taken for the end of an idle connection
        2 * [Fault(before="stall")],
        2 * [Fault(ignore_range=True)],
        2 * [Fault(body_bytes=100)],
        [Fault(headers={"Content-Range": f"bytes 0-{TAIL_BYTES - 1}/{len(CONTENT)}"})],
    ],
)
def test_a_server_that_does_not_send_the_tail_fails_no_import(faults: list[Fault]) -> None:
    impatient = msgspec.structs.replace(QUICK, read_timeout_seconds=0.5)
    with HttpServer(CONTENT) as server:
        server.faults = [None, *faults]
        info, whole = probe_and_read(server.url, impatient)
    assert info.digest == digest_of(HEAD, b"")
    assert whole.data == CONTENT


def test_a_tail_that_fails_once_is_asked_for_again() -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [None, Fault(status=503)]
        assert probed(server.url).digest == digest_of(HEAD, TAIL)


def test_a_tail_of_another_file_is_source_changed() -> None:
    with HttpServer(CONTENT) as server:
        server.faults = [None, Fault(headers={"ETag": '"v2"'})]
        with pytest.raises(LoaderError) as caught:
            probed(server.url)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


def test_a_second_response_has_to_begin_like_the_probed_file() -> None:
    with HttpServer(CONTENT, etag=None) as server, opened(server.url) as source:
        source.probe()
        server.content = changed_at(CONTENT, HEAD_BYTES - 1)
        with pytest.raises(LoaderError) as caught:
            read(source)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


def test_a_restarted_stream_must_start_with_the_probed_bytes() -> None:
    with HttpServer(CONTENT, ranges=False) as server, opened(server.url) as source:
        source.probe()
        assert read(source).data == CONTENT
        server.content = changed_at(CONTENT, 0)
        with pytest.raises(LoaderError) as caught:
            read(source)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


# --- nodes that disagree on the ETag

MODIFIED = "Mon, 01 Jan 2024 00:00:00 GMT"


def node(etag: str, **headers: str) -> Fault:
    return Fault(headers={"ETag": etag, **headers})


def test_etags_that_differ_by_node_are_reported_with_a_way_out() -> None:
    with HttpServer(CONTENT, last_modified=MODIFIED) as server:
        server.faults = [None, node('"v2"')]
        with pytest.raises(LoaderError) as caught:
            probed(server.url)
    failure = caught.value.failure
    assert failure.code is FailureCode.SOURCE_PROTOCOL
    assert '"v1"' in failure.message
    assert '"v2"' in failure.message
    assert "--ignore-etag" in failure.hint


def test_another_etag_with_another_date_is_source_changed() -> None:
    with HttpServer(CONTENT, last_modified=MODIFIED) as server:
        server.faults = [None, node('"v2"', **{"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"})]
        with pytest.raises(LoaderError) as caught:
            probed(server.url)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


def test_without_etags_the_date_identifies_the_file_of_all_nodes() -> None:
    with HttpServer(CONTENT, last_modified=MODIFIED) as server:
        server.rule = lambda request: node(f'"of node {request.number}"')
        with opened(server.url, ignore_etag=True) as source:
            info = source.probe()
            assert (info.validator, info.resumable) == (MODIFIED, True)
            assert read(source).data == CONTENT
            server.last_modified = "Tue, 02 Jan 2024 00:00:00 GMT"
            with pytest.raises(LoaderError) as caught:
                read(source)
    assert caught.value.code is FailureCode.SOURCE_CHANGED
    assert all("if-match" not in request.headers for request in server.requests)


def test_without_etags_and_date_nothing_identifies_the_file() -> None:
    with HttpServer(CONTENT) as server, opened(server.url, ignore_etag=True) as source:
        info = source.probe()
        assert (info.validator, info.resumable) == (None, False)
        assert read(source).data == CONTENT
