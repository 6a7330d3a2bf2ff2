"""A body shorter than any response announced is never the file, wherever it ends: here always at the end of a row."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable, Mapping

import pytest

from loader.contract import FailureCode, Job
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.source_reading import HEAD_BYTES
from tests.support.whole_import import WholeImport

pytestmark = pytest.mark.slow

Rule = Callable[[Request], Fault | None]


@pytest.fixture
def whole_import(database_url: str, sample: bytes) -> WholeImport:
    return WholeImport(database_url, sample)


def as_it_is(first: bytes, rest: bytes) -> tuple[bytes, bytes]:
    return first, rest


def in_two(compress: Callable[[bytes], bytes], first: bytes, rest: bytes) -> tuple[bytes, bytes]:
    """As two members: a compressed file that ends behind the first is a whole one in itself."""
    return compress(first), compress(rest)


PACKED = {
    "plain": as_it_is,
    # stored: larger than the probe's head
    "gzip": functools.partial(in_two, functools.partial(gzip.compress, compresslevel=0)),
}
Packed = Callable[[bytes, bytes], tuple[bytes, bytes]]


def without_total(size: int, later: Callable[[Request], Fault]) -> Rule:
    """Serve ranges without a total, and the whole file with the fault `later`."""
    told = {"Content-Range": f"bytes 0-{min(size, HEAD_BYTES) - 1}/*"}
    return lambda request: Fault(headers=told) if request.first is not None else later(request)


def raw(content: bytes, *headers: str) -> Fault:
    """Send these headers, the first of them the status, and this body, and hang up."""
    return Fault(raw=lambda: ["".join(f"{line}\r\n" for line in [*headers, ""]).encode() + content])


# What announces the length: the rule for a content that is cut at a border, and the failure.
CASES: Mapping[str, tuple[Callable[[bytes, int], Rule], FailureCode]] = {
    "a GET after a range without total": (
        lambda content, border: without_total(len(content), lambda _: Fault(body_bytes=border)),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "a chunked GET after a range without total": (
        lambda content, border: without_total(
            len(content),
            lambda _: Fault(
                body=content[:border], framing="chunked", headers={"Content-Length": str(len(content))}
            ),
        ),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "a redirect's target, after a range without total": (
        lambda content, border: without_total(
            len(content),
            lambda request: (
                Fault(body_bytes=border)
                if request.target == "/target"
                else Fault(status=302, headers={"Location": "/target"})
            ),
        ),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "the range itself": (
        lambda content, _: without_total(len(content), lambda _: Fault(body=content[: HEAD_BYTES - 1000])),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "the whole in place of a range": (
        lambda _, border: lambda _: Fault(ignore_range=True, body_bytes=border),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "the chunked whole in place of a range": (
        lambda content, border: (
            lambda _: Fault(
                ignore_range=True,
                body=content[:border],
                framing="chunked",
                headers={"Content-Length": str(len(content))},
            )
        ),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "the last chunk, which is missing": (
        lambda _, border: lambda _: Fault(ignore_range=True, body_bytes=border, framing="chunked"),
        FailureCode.SOURCE_TRUNCATED,
    ),
    "two lengths": (
        lambda content, border: (
            lambda _: raw(
                content[:border],
                "HTTP/1.1 200 OK",
                f"Content-Length: {border}",
                f"Content-Length: {len(content)}",
            )
        ),
        FailureCode.SOURCE_PROTOCOL,
    ),
    "a length that is no number": (
        lambda content, border: (
            lambda _: raw(content[:border], "HTTP/1.1 200 OK", f"Content-Length: {len(content)}, {border}")
        ),
        FailureCode.SOURCE_PROTOCOL,
    ),
    "a length that the chunks exceed": (
        lambda _, border: (
            lambda _: Fault(ignore_range=True, framing="chunked", headers={"Content-Length": str(border)})
        ),
        FailureCode.SOURCE_PROTOCOL,
    ),
}


@pytest.mark.parametrize(("rule_of", "code"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_a_body_shorter_than_a_response_announced_is_never_the_file(
    whole_import: WholeImport,
    sample: bytes,
    packed: Packed,
    rule_of: Callable[[bytes, int], Rule],
    code: FailureCode,
) -> None:
    border = sample.index(b"\n", 900_000) + 1
    first, rest = packed(sample[:border], sample[border:])
    with HttpServer(first + rest) as server:
        server.rule = rule_of(first + rest, len(first))
        whole_import.fails(Job(server.url), code)


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_a_length_that_a_later_response_announces_is_verified(
    whole_import: WholeImport, sample: bytes, packed: Packed
) -> None:
    first, rest = packed(sample[:900_000], sample[900_000:])
    with HttpServer(first + rest) as server:
        server.rule = without_total(len(first + rest), lambda _: Fault())
        assert whole_import.succeeds(Job(server.url, require_verified_length=True)).length_verified


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_an_end_that_nothing_announces_is_verified_by_no_format(
    whole_import: WholeImport, sample: bytes, packed: Packed
) -> None:
    first, rest = packed(sample[:900_000], sample[900_000:])
    with HttpServer(first + rest) as server:
        server.rule = lambda _: Fault(ignore_range=True, framing="close")
        whole_import.fails(Job(server.url, require_verified_length=True), FailureCode.LENGTH_UNVERIFIED)
        server.rule = without_total(len(first + rest), lambda _: Fault(framing="close"))
        # the probe can't know that yet
        whole_import.fails(Job(server.url, require_verified_length=True), FailureCode.LENGTH_UNVERIFIED)
        assert not whole_import.succeeds(Job(server.url)).length_verified
