"""An import has the bytes of one file: which runs may resume it, from which URL, and what is already imported."""

from __future__ import annotations

import gzip
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from loader.contract import Failed, Failure, FailureCode, Job, Published
from loader.source.base import TAIL_BYTES, digest_of
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.loader_process import checksum, checksum_of, committed_rows, query, row_count
from tests.support.source_reading import HEAD_BYTES
from tests.support.whole_import import WholeImport

pytestmark = pytest.mark.slow

# Behind it the server fails: some parts of the sample are committed then.
MIDDLE = 1_200_000
ID = str(uuid.uuid4())


@pytest.fixture
def whole_import(database_url: str, sample: bytes) -> WholeImport:
    return WholeImport(database_url, sample)


def in_mid_load(fault: Fault) -> Callable[[Request], Fault | None]:
    return lambda request: fault if (request.first or 0) >= MIDDLE else None


def loaded_in_part(whole_import: WholeImport, server: HttpServer, job: Job) -> None:
    """Let a run fail when some of its parts are committed; what follows is served."""
    server.rule = in_mid_load(Fault(status=503))
    whole_import.fails(job, FailureCode.SOURCE_UNREACHABLE)
    assert committed_rows(whole_import.database_url) > 0
    server.rule = lambda _: None


def refused_and_kept(whole_import: WholeImport, job: Job) -> Failure:
    """Check that a job is refused as another file's, and that the named import's staging is unchanged."""
    committed = committed_rows(whole_import.database_url)
    end = whole_import.ends(job)
    assert isinstance(end, Failed)
    assert (end.failure.code, end.staging) == (FailureCode.SOURCE_CHANGED, "kept")
    assert committed_rows(whole_import.database_url) == committed > 0
    assert row_count(whole_import.database_url) == 0
    return end.failure


def with_another_digit(content: bytes, start: int, end: int) -> bytes:
    """Return a file of equal size that has another fare between two offsets."""
    digit = next(re.compile(rb"\d(?=\.\d\d,)").finditer(content, start, end)).start()
    return content[:digit] + bytes([content[digit] ^ 1]) + content[digit + 1 :]


def in_the_head(content: bytes) -> bytes:
    return with_another_digit(content, 1_000, HEAD_BYTES)


def in_the_tail(content: bytes) -> bytes:
    return with_another_digit(content, len(content) - TAIL_BYTES, len(content))


def compressed(content: bytes) -> bytes:
    return gzip.compress(content, 0)


Change = Callable[[bytes], bytes]
CHANGES: dict[str, Change] = {
    "another head": in_the_head,
    "another tail": in_the_tail,
    "another compression": compressed,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_file_with_the_same_name_and_etag_never_resumes_an_import(
    whole_import: WholeImport, server: HttpServer, sample: bytes, change: Change
) -> None:
    loaded_in_part(whole_import, server, Job(server.url, import_id=ID))
    server.content = change(sample)
    failure = refused_and_kept(whole_import, Job(f"{server.url}?wrong=query", import_id=ID))
    assert server.url in failure.message
    server.content = sample
    assert whole_import.succeeds(Job(server.url, import_id=ID)).attempts == 3


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_differs_from_what_is_staged_is_an_import_of_its_own(
    database_url: str, server: HttpServer, sample: bytes, change: Change
) -> None:
    loaded_in_part(WholeImport(database_url, sample), server, Job(f"{server.url}?f=A"))
    server.content = change(sample)
    plain = sample if change is compressed else server.content
    end = WholeImport(database_url, plain).ends(Job(f"{server.url}?f=B"))
    assert isinstance(end, Published)
    assert end.receipt.attempts == 1
    assert checksum(database_url) == checksum_of(database_url, plain)
    staged = query(database_url, "SELECT count(*) FROM loader.import WHERE state = 'loading'")
    assert staged == [(1,)]  # of the first, which no run has resumed


def test_only_the_very_file_is_already_imported(
    whole_import: WholeImport, server: HttpServer, sample: bytes
) -> None:
    def is_already_imported(query: str) -> bool:
        end = whole_import.ends(Job(f"{server.url}?{query}"))
        return isinstance(end, Failed) and end.failure.code is FailureCode.ALREADY_IMPORTED

    whole_import.succeeds(Job(f"{server.url}?f=A"))
    server.content = in_the_tail(sample)
    assert not is_already_imported("f=B")
    assert row_count(whole_import.database_url) == 2 * (sample.count(b"\n") - 1)
    assert is_already_imported("f=B")
    server.content = sample
    assert is_already_imported("f=A")
    server.faults = [None, *2 * [Fault(status=503)]]  # without its tail it may be either of them
    assert is_already_imported("f=A")


def test_a_new_url_of_the_file_resumes_the_named_import(
    whole_import: WholeImport, server: HttpServer
) -> None:
    old, new = f"{server.url}?signature=old", f"{server.origin}/copy/trips.csv?signature=new"
    loaded_in_part(whole_import, server, Job(old, import_id=ID))
    before = len(server.requests)
    assert whole_import.succeeds(Job(new, import_id=ID)).attempts == 2
    assert min(request.first or MIDDLE for request in server.requests[before + 1 :]) > HEAD_BYTES
    found = query(whole_import.database_url, "SELECT location FROM loader.import")
    assert found == [(f"{server.origin}/copy/trips.csv",)]


def test_another_file_at_another_url_leaves_the_named_import_alone(
    whole_import: WholeImport, server: HttpServer, sample: bytes
) -> None:
    loaded_in_part(whole_import, server, Job(server.url, import_id=ID))
    with HttpServer(in_the_head(sample)) as other:
        failure = refused_and_kept(whole_import, Job(other.url, import_id=ID))
    assert server.url in failure.message
    assert whole_import.succeeds(Job(server.url, import_id=ID)).attempts == 3


def test_a_file_without_validator_at_another_url_is_another_file(
    whole_import: WholeImport, server: HttpServer, sample: bytes
) -> None:
    loaded_in_part(whole_import, server, Job(server.url, import_id=ID))
    with HttpServer(sample, etag=None) as other:
        refused_and_kept(whole_import, Job(other.url, import_id=ID))
    assert whole_import.succeeds(Job(server.url, import_id=ID)).attempts == 3


def test_a_moved_file_resumes_its_import_and_a_copy_does_not(
    whole_import: WholeImport, sample: bytes, tmp_path: Path
) -> None:
    path, copy, moved = tmp_path / "trips.csv", tmp_path / "copy.csv", tmp_path / "moved.csv"
    path.write_bytes(sample[:-20])  # its last record is cut off: the import fails when the rest is committed
    whole_import.fails(Job(str(path), import_id=ID), FailureCode.SOURCE_TRUNCATED)
    shutil.copy2(path, copy)
    assert str(path) in refused_and_kept(whole_import, Job(str(copy), import_id=ID)).message
    path.rename(moved)
    whole_import.fails(Job(str(moved), import_id=ID), FailureCode.SOURCE_TRUNCATED)
    assert query(whole_import.database_url, "SELECT location FROM loader.import") == [(str(moved),)]


def test_an_import_with_less_known_identity_is_resumed(
    whole_import: WholeImport, server: HttpServer, sample: bytes
) -> None:
    digests = "SELECT digest FROM loader.import"
    digest = digest_of(sample[:HEAD_BYTES], sample[-TAIL_BYTES:])
    loaded_in_part(whole_import, server, Job(server.url))
    assert query(whole_import.database_url, digests) == [(digest,)]
    # started by version 1 of the ledger
    query(whole_import.database_url, "UPDATE loader.import SET digest = NULL RETURNING 1")
    loaded_in_part(whole_import, server, Job(server.url))
    assert query(whole_import.database_url, digests) == [(digest,)]
    server.faults = [None, *2 * [Fault(status=503)]]  # the server fails to send the tail
    assert whole_import.succeeds(Job(server.url)).attempts == 3
    assert query(whole_import.database_url, digests) == [(digest,)]


# --- changes of a source while it is imported


def test_nodes_that_disagree_on_the_etag_are_not_mixed(whole_import: WholeImport, server: HttpServer) -> None:
    server.rule = lambda request: Fault(headers={"ETag": '"v2"'}) if request.number % 2 else None
    whole_import.fails(Job(server.url), FailureCode.SOURCE_CHANGED)


def test_nodes_of_equal_date_are_imported_without_their_etags(
    whole_import: WholeImport, server: HttpServer
) -> None:
    server.last_modified = "Mon, 01 Jan 2024 00:00:00 GMT"
    server.rule = lambda request: Fault(headers={"ETag": f'"of node {request.number % 3}"'})
    failure = whole_import.fails(Job(server.url), FailureCode.SOURCE_PROTOCOL)
    assert "--ignore-etag" in failure.hint
    receipt = whole_import.succeeds(Job(server.url, ignore_etag=True))
    assert receipt.validator == server.last_modified


def test_an_export_that_grows_while_it_is_read_is_source_changed(
    whole_import: WholeImport, server: HttpServer, sample: bytes
) -> None:
    def rule(request: Request) -> None:
        if (request.first or 0) >= MIDDLE:
            server.content = sample

    server.content = sample[: sample.rindex(b"\n", 0, -10) + 1]
    server.rule = rule
    whole_import.fails(Job(server.url), FailureCode.SOURCE_CHANGED)


def test_a_login_page_in_place_of_the_file_leaves_the_staging_alone(
    whole_import: WholeImport, server: HttpServer
) -> None:
    loaded_in_part(whole_import, server, Job(server.url, import_id=ID))
    server.rule = lambda _: Fault(
        status=200, body=b"<!DOCTYPE html><title>Log in</title>", headers={"ETag": None}
    )
    whole_import.fails(Job(server.url, import_id=ID), FailureCode.NOT_CSV)
    server.rule = lambda _: None
    assert whole_import.succeeds(Job(server.url, import_id=ID)).attempts == 2


def test_a_signature_that_expires_in_mid_load_is_replaced(
    whole_import: WholeImport, server: HttpServer
) -> None:
    server.rule = lambda request: (
        Fault(status=403) if (request.first or 0) >= MIDDLE and "new" not in request.target else None
    )
    whole_import.fails(Job(f"{server.url}?signature=old", import_id=ID), FailureCode.SOURCE_FORBIDDEN)
    assert committed_rows(whole_import.database_url) > 0
    assert whole_import.succeeds(Job(f"{server.url}?signature=new", import_id=ID)).attempts == 2
