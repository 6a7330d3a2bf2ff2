"""Whatever the file's server does, an import ends: with all rows, each once, or with none and a reason.

Whole imports. What is true of the source alone is in test_http_*.py and test_decompress.py.
"""

from __future__ import annotations

import datetime
import email.utils
import functools
import gzip
import itertools
import random
import ssl
import time
from collections.abc import Callable, Generator, Iterator

import msgspec
import pytest
import trustme
import zstandard

from loader.contract import FailureCode, Job
from loader.errors import LoaderError
from loader.source.decompress import RATIO_GRACE_BYTES
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.loader_process import committed_rows
from tests.support.source_reading import QUICK, probe_and_read
from tests.support.whole_import import HASTY, WholeImport

pytestmark = pytest.mark.slow

# Three ranges of 64 KiB into the sample, with a committed part before it and one in the making.
MIDDLE = 1_200_000


@pytest.fixture
def whole_import(database_url: str, sample: bytes) -> WholeImport:
    return WholeImport(database_url, sample)


def once(*faults: Fault) -> Callable[[Request], Fault | None]:
    """Misbehave at the first requests behind MIDDLE, then no more."""
    left = [*faults]

    def rule(request: Request) -> Fault | None:
        return left.pop(0) if left and (request.first or 0) >= MIDDLE else None

    return rule


def always(fault: Fault) -> Callable[[Request], Fault | None]:
    """Misbehave from MIDDLE on."""
    return lambda request: fault if (request.first or 0) >= MIDDLE else None


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()


def endless(start: bytes, piece: bytes) -> Fault:
    """Send this without end, and fast: no limit of time ends it."""
    return Fault(raw=lambda: itertools.chain([start], itertools.repeat(piece * (65_536 // len(piece)))))


STATUS = head("HTTP/1.1 206 Partial Content")
CHUNKED = head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "")

# --- what passes


PASSING = {
    "reset within the body": Fault(body_bytes=10_000, then="reset"),
    "hung up within the body": Fault(body_bytes=10_000),
    "silent within the body": Fault(body_bytes=10_000, then="stall"),
    "silent before the answer": Fault(before="stall"),
    "a byte each 50 ms": Fault(trickle_seconds=0.05),
    "cut within a chunk": Fault(framing="chunked", body_bytes=10_000),
    "cut within the status": Fault(response_bytes=5),
    "cut within the headers": Fault(response_bytes=50),
    "the range ignored": Fault(ignore_range=True),
    "too many requests": Fault(status=429, headers={"Retry-After": "0"}),
    "unavailable": Fault(status=503, headers={"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}),
    "no HTTP": Fault(raw=lambda: [b"SSH-2.0-OpenSSH_9.6\r\n"]),
    "nothing but a status": Fault(raw=lambda: [STATUS]),
    "a header of a megabyte": endless(STATUS + b"X: ", b"x"),
    "headers without end": endless(STATUS, b"X: x\r\n"),
    "interim answers without end": endless(b"", head("HTTP/1.1 100 Continue", "")),
    "other interim answers without end": endless(b"", head("HTTP/1.1 103 Early Hints", "Link: </x>", "")),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_of_one_response_costs_no_row(
    whole_import: WholeImport, server: HttpServer, fault: Fault
) -> None:
    server.rule = once(fault, fault)
    receipt = whole_import.succeeds(Job(server.url))
    assert (receipt.attempts, receipt.length_verified) == (1, True)


def test_interim_responses_are_skipped(whole_import: WholeImport, sample: bytes) -> None:
    hints = head("HTTP/1.1 103 Early Hints", "Link: </style.css>", "Content-Length: 5", "") * 3
    whole = head("HTTP/1.1 200 OK", f"Content-Length: {len(sample)}", "") + sample
    with HttpServer(sample) as server:
        server.rule = lambda _: Fault(raw=lambda: [hints + head("HTTP/1.1 100 Continue", "") + hints + whole])
        assert whole_import.succeeds(Job(server.url)).length_verified


def test_a_slow_network_costs_time_and_nothing_else(whole_import: WholeImport, server: HttpServer) -> None:
    server.rule = lambda _: Fault(latency_seconds=0.1, trickle_seconds=0.001, trickle_bytes=1_460)
    assert whole_import.succeeds(Job(server.url)).attempts == 1


def test_a_slow_first_byte_needs_a_longer_read_timeout(whole_import: WholeImport, server: HttpServer) -> None:
    server.rule = lambda request: Fault(latency_seconds=1.5) if request.number == 0 else None
    once_only = msgspec.structs.replace(HASTY, probe_attempts=1)
    failure = whole_import.fails(Job(server.url), FailureCode.SOURCE_UNREACHABLE, once_only)
    assert "--read-timeout" in failure.hint
    server.requests.clear()
    whole_import.succeeds(Job(server.url, read_timeout_seconds=60), once_only)


def test_a_retry_after_of_the_server_is_respected(whole_import: WholeImport, server: HttpServer) -> None:
    asked: list[float] = []

    def rule(request: Request) -> Fault | None:
        if (request.first or 0) < MIDDLE:
            return None
        asked.append(time.time())
        in_two_seconds = email.utils.formatdate(asked[0] + 2, usegmt=True)  # in whole seconds
        waits = {1: "1", 2: in_two_seconds}
        wait = waits.get(len(asked))
        return None if wait is None else Fault(status=503, headers={"Retry-After": wait})

    server.rule = rule
    with_one = msgspec.structs.replace(HASTY, max_retry_after_seconds=5)
    whole_import.succeeds(Job(server.url), with_one)
    assert len(asked) > 2


ABSURD = ["9" * 4_000, "Fri, 31 Dec 9999 23:59:59 GMT", "86400"]


@pytest.mark.parametrize("wait", ABSURD, ids=["digits", "date", "a day"])
def test_a_server_can_not_hold_an_import_for_longer_than_the_limit(
    whole_import: WholeImport, server: HttpServer, wait: str
) -> None:
    server.rule = once(Fault(status=429, headers={"Retry-After": wait}))
    short = msgspec.structs.replace(HASTY, max_retry_after_seconds=0.05)
    whole_import.succeeds(Job(server.url), short)


# --- what stays


STAYING = {
    "silent for good": (Fault(before="stall"), FailureCode.SOURCE_UNREACHABLE),
    "a byte each 50 ms for good": (Fault(trickle_seconds=0.05), FailureCode.SOURCE_UNREACHABLE),
    "unavailable for good": (Fault(status=503), FailureCode.SOURCE_UNREACHABLE),
    "headers without end": (endless(STATUS, b"X: x\r\n"), FailureCode.SOURCE_UNREACHABLE),
    "a byte a connection": (Fault(body_bytes=1), FailureCode.SOURCE_TRUNCATED),
    "a byte an answer": (Fault(range_bytes=1), FailureCode.SOURCE_PROTOCOL),
    "the range ignored": (Fault(ignore_range=True), FailureCode.SOURCE_PROTOCOL),
    "another range": (
        Fault(headers={"Content-Range": "bytes 0-65535/2000000"}),
        FailureCode.SOURCE_PROTOCOL,
    ),
    "multipart": (
        Fault(headers={"Content-Range": None, "Content-Type": "multipart/byteranges; boundary=x"}),
        FailureCode.SOURCE_PROTOCOL,
    ),
    "no bytes there (416)": (Fault(status=416), FailureCode.SOURCE_PROTOCOL),
    "an unknown Transfer-Encoding": (
        Fault(headers={"Transfer-Encoding": "gzip, chunked"}),
        FailureCode.SOURCE_PROTOCOL,
    ),
    "another coding": (Fault(headers={"Content-Encoding": "br"}), FailureCode.SOURCE_PROTOCOL),
    "another ETag": (Fault(headers={"ETag": '"v2"'}), FailureCode.SOURCE_CHANGED),
    "a weak ETag": (Fault(headers={"ETag": 'W/"v1"'}), FailureCode.SOURCE_CHANGED),
    "changed (412)": (Fault(status=412), FailureCode.SOURCE_CHANGED),
    "expired (403)": (Fault(status=403), FailureCode.SOURCE_FORBIDDEN),
    "gone (404)": (Fault(status=404), FailureCode.SOURCE_NOT_FOUND),
}


@pytest.mark.parametrize(("fault", "code"), STAYING.values(), ids=STAYING)
def test_a_fault_that_stays_ends_the_import_without_rows(
    whole_import: WholeImport, server: HttpServer, fault: Fault, code: FailureCode
) -> None:
    server.rule = always(fault)
    failure = whole_import.fails(Job(server.url), code)
    if failure.retryable:  # the same command resumes
        server.rule = lambda _: None
        assert whole_import.succeeds(Job(server.url)).attempts == 2


NO_FILE = {
    "empty": (b"", FailureCode.EMPTY_FILE),
    "an error page": (b"<!DOCTYPE html>\n<html>It works!</html>\n", FailureCode.NOT_CSV),
}


@pytest.mark.parametrize(("content", "code"), NO_FILE.values(), ids=NO_FILE)
def test_what_is_not_the_file_ends_the_import_before_it_starts(
    whole_import: WholeImport, content: bytes, code: FailureCode
) -> None:
    with HttpServer(content) as server:
        whole_import.fails(Job(server.url), code)


# --- files that come as one stream


@pytest.fixture
def stream(sample: bytes) -> Generator[HttpServer]:
    """The sample's server, which knows no ranges."""
    with HttpServer(sample, ranges=False) as server:
        yield server


STREAM_FAULTS: dict[str, tuple[Callable[[int], Fault], FailureCode]] = {
    "announced too long": (
        lambda size: Fault(headers={"Content-Length": str(size + 1), "Connection": "close"}),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "announced too short": (
        lambda size: Fault(headers={"Content-Length": str(size - 100)}),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "announced longer than any file": (
        lambda _: Fault(headers={"Content-Length": "9" * 4_000}),
        FailureCode.SOURCE_PROTOCOL,
    ),
    "cut within the chunks": (
        lambda size: Fault(framing="chunked", body_bytes=size - 100),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "cut where nothing announces the end": (
        lambda size: Fault(framing="close", body_bytes=size - 100),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "trailers without end": (
        lambda _: endless(CHUNKED + b"3\r\na\nb\r\n0\r\n", b"X: x\r\n"),
        FailureCode.SOURCE_UNREACHABLE,
    ),
    "frames without data": (
        lambda _: endless(CHUNKED, b"1;" + b"x" * 16_000 + b"\r\na\r\n"),
        FailureCode.SOURCE_UNREACHABLE,
    ),
}


@pytest.mark.parametrize(("fault", "code"), STREAM_FAULTS.values(), ids=STREAM_FAULTS)
def test_a_stream_with_a_wrong_end_does_not_count_as_the_file(
    whole_import: WholeImport, stream: HttpServer, fault: Callable[[int], Fault], code: FailureCode
) -> None:
    stream.rule = lambda _: fault(stream.size_bytes)
    whole_import.fails(Job(stream.url, max_rejects="100"), code)


def test_a_last_chunk_that_is_cut_off_is_none(whole_import: WholeImport, sample: bytes) -> None:
    border = sample.index(b"\n", MIDDLE) + 1  # no record is cut off with it
    first, rest = sample[:border], sample[border:]
    chunks = b"%x\r\n%b\r\n" % (len(first), first)
    with HttpServer(sample) as server:
        # of the size of the next chunk, `000…`, only the first digit arrives
        server.rule = lambda _: Fault(raw=lambda: [CHUNKED, chunks, b"0"])
        whole_import.fails(Job(server.url), FailureCode.SOURCE_TRUNCATED)
        server.rule = lambda _: Fault(
            raw=lambda: [CHUNKED, chunks, b"%010x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)]
        )
        assert whole_import.succeeds(Job(server.url)).length_verified


def test_an_unannounced_length_is_in_the_receipt_or_refused(
    whole_import: WholeImport, stream: HttpServer
) -> None:
    stream.rule = lambda _: Fault(framing="close")
    failure = whole_import.fails(Job(stream.url, require_verified_length=True), FailureCode.LENGTH_UNVERIFIED)
    assert stream.url in failure.message
    assert len(stream.requests) == 1
    assert not whole_import.succeeds(Job(stream.url)).length_verified


def as_it_is(piece: bytes) -> bytes:
    return piece


def stored(piece: bytes) -> bytes:
    """As a gzip member of about the same length."""
    return gzip.compress(piece, 0)


@pytest.mark.parametrize("packed", [as_it_is, stored])
def test_a_stream_that_ends_before_the_committed_bytes_is_truncated(
    whole_import: WholeImport, stream: HttpServer, sample: bytes, packed: Callable[[bytes], bytes]
) -> None:
    border = sample.index(b"\n", 300_000) + 1  # no record and no member is cut off there
    first = packed(sample[:border])
    stream.content = first + packed(sample[border:])
    stream.rule = lambda _: Fault(framing="close", body_bytes=MIDDLE, then="stall")
    whole_import.fails(Job(stream.url), FailureCode.SOURCE_UNREACHABLE)
    assert committed_rows(whole_import.database_url) > 0
    stream.rule = lambda _: Fault(framing="close", body_bytes=len(first))
    assert whole_import.fails(Job(stream.url), FailureCode.SOURCE_TRUNCATED).retryable
    stream.rule = lambda _: Fault(framing="close")
    receipt = whole_import.succeeds(Job(stream.url))
    assert (receipt.attempts, receipt.source_bytes) == (3, len(stream.content))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_announced_or_marked_end_is_verified(
    whole_import: WholeImport, stream: HttpServer, framing: str
) -> None:
    stream.rule = lambda _: Fault(framing="chunked" if framing == "chunked" else "length")
    assert whole_import.succeeds(Job(stream.url, require_verified_length=True)).length_verified


@pytest.mark.parametrize(
    ("more_bytes", "code"), [(-100, FailureCode.SOURCE_TRUNCATED), (100, FailureCode.SOURCE_CHANGED)]
)
@pytest.mark.parametrize("framing", ["close", "chunked"])
def test_a_size_that_was_announced_once_holds_for_the_stream_that_follows(
    whole_import: WholeImport, sample: bytes, framing: str, more_bytes: int, code: FailureCode
) -> None:
    def rule(request: Request) -> Fault | None:
        if request.first is not None:
            return None
        return Fault(framing="close" if framing == "close" else "chunked")

    with HttpServer(sample, etag=None) as server:  # ranges, but nothing proves them to be of one file
        server.rule = rule
        job = Job(server.url, require_verified_length=True)
        assert whole_import.succeeds(job).length_verified
        length = len(sample) + more_bytes
        server.rule = lambda request: (
            None
            if request.first is not None
            else Fault(
                raw=lambda: [head("HTTP/1.1 200 OK", "Connection: close", ""), (sample + sample)[:length]]
            )
        )
        with pytest.raises(LoaderError) as caught:
            probe_and_read(server.url)
        assert caught.value.code is code


def test_the_last_record_is_cut_off_however_many_may_be_rejected(
    whole_import: WholeImport, sample: bytes
) -> None:
    end = sample.rindex(b",", 0, len(sample) - 50)
    with HttpServer(sample[:end]) as server:
        for allowed in ("0", "10", "5%"):
            job = Job(server.url, max_rejects=allowed)
            failure = whole_import.fails(job, FailureCode.SOURCE_TRUNCATED)
            assert failure.line == sample.count(b"\n")
            assert failure.byte_offset == sample.rindex(b"\n", 0, end) + 1


# --- TLS


def certified(authority: trustme.CA, name: str, expires: datetime.datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority.issue_cert(name, not_after=expires)
    with certificate.private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("flaw", ["expired", "another name", "self-signed"])
def test_a_certificate_that_proves_nothing_ends_the_import(
    whole_import: WholeImport, sample: bytes, authority: trustme.CA, flaw: str
) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    tls = {
        "expired": lambda: certified(authority, "localhost", yesterday),
        "another name": lambda: certified(authority, "elsewhere.example"),
        "self-signed": lambda: certified(trustme.CA(), "localhost"),
    }[flaw]()
    with HttpServer(sample, tls=tls) as server:
        failure = whole_import.fails(Job(server.url), FailureCode.SOURCE_UNREACHABLE)
        assert "certificate" in failure.message
        assert not server.requests


def test_a_handshake_that_is_cut_is_tried_again(
    whole_import: WholeImport, sample: bytes, authority: trustme.CA
) -> None:
    with HttpServer(sample, tls=certified(authority, "localhost")) as server:
        server.cut_handshakes = 2
        whole_import.succeeds(Job(server.url))
        server.drop_connections()
        server.cut_handshakes = 1_000
        with pytest.raises(LoaderError) as caught:
            probe_and_read(server.url)
    assert caught.value.code is FailureCode.SOURCE_UNREACHABLE


# --- compressed


def zstandarded(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


COMPRESSORS = [
    pytest.param(functools.partial(gzip.compress, compresslevel=6), id="gzip"),
    pytest.param(zstandarded, id="zstd"),
]
Compressor = Callable[[bytes], bytes]


@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize(
    ("missing_bytes", "junk", "code"),
    [
        pytest.param(20, b"", FailureCode.SOURCE_TRUNCATED, id="truncated"),
        pytest.param(0, b"junkjunk", FailureCode.SOURCE_CORRUPT, id="junk"),
    ],
)
def test_a_compressed_file_that_is_not_whole_publishes_nothing(
    whole_import: WholeImport,
    sample: bytes,
    compress: Compressor,
    missing_bytes: int,
    junk: bytes,
    code: FailureCode,
) -> None:
    compressed = compress(sample)
    with HttpServer(compressed[: len(compressed) - missing_bytes] + junk) as server:
        whole_import.fails(Job(server.url), code)


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_a_file_that_is_compressed_on_the_way_arrives_whole(
    whole_import: WholeImport, sample: bytes, compress: Compressor
) -> None:
    with HttpServer(compress(sample[:MIDDLE]) + compress(sample[MIDDLE:]), ranges=False) as server:
        # although it was not requested, and with an end that only the last chunk marks
        server.rule = lambda _: Fault(framing="chunked", headers={"Content-Encoding": "gzip"})
        assert whole_import.succeeds(Job(server.url, require_verified_length=True)).length_verified


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_rows_that_grow_without_measure_are_not_loaded(
    whole_import: WholeImport, sample: bytes, compress: Compressor
) -> None:
    header, row, _ = sample.split(b"\n", 2)
    bomb = header + b"\n" + (row + b"\n") * (2 * RATIO_GRACE_BYTES // len(row))
    with HttpServer(compress(bomb)) as server:
        whole_import.fails(Job(server.url), FailureCode.SOURCE_CORRUPT)


# --- anything


def cuts(seed: int) -> Iterator[Fault]:
    """Answers that are cut off anywhere, their headers included, in each framing."""
    chance = random.Random(seed)
    while True:
        framing = chance.choice(("length", "chunked"))
        length = chance.choice((chance.randrange(1, 300), chance.randrange(300, 60_000)))
        yield Fault(framing="chunked" if framing == "chunked" else "length", response_bytes=length)


@pytest.mark.long
def test_a_response_that_is_truncated_anywhere_never_counts_as_complete() -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    content = random.Random(seed).randbytes(50_000)
    patient = msgspec.structs.replace(QUICK, attempts=1_000, probe_attempts=1_000, first_delay_seconds=0)
    for number, ranges in zip(range(400), itertools.cycle([True, False]), strict=False):
        faults = cuts(seed + number)
        with HttpServer(content, ranges=ranges) as server:
            server.rule = lambda request, faults=faults: next(faults) if request.number < 3 else None
            code, data = None, content
            try:
                data = probe_and_read(server.url, patient)[1].data
            except LoaderError as error:
                code = error.code
            assert data == content
            # a stream is not retried once its bytes flow
            expected = (
                {None} if ranges else {None, FailureCode.SOURCE_TRUNCATED, FailureCode.SOURCE_UNREACHABLE}
            )
            assert code in expected
