"""Retries of an import whose signed URL has expired, with a new URL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.live_service import Json, LiveService, assert_problem
from tests.support.loader_process import assert_nothing_is_left, committed_rows, row_count
from tests.support.mid_load import STALL_BYTES

# Real processes: some seconds each.
pytestmark = pytest.mark.slow

KEY = {"Idempotency-Key": "monthly"}


@pytest.fixture
def live(tmp_path: Path, database_url: str) -> Generator[LiveService]:
    with LiveService(tmp_path, database_url, small=True) as live:
        yield live


def expire(request: Request) -> Fault | None:
    """Serve only the beginning of the file to the old signature."""
    is_late = (request.first or 0) >= STALL_BYTES and not request.is_tail  # only the probe requests the tail
    return Fault(status=403) if "canary-old" in request.target and is_late else None


def submit_expiring(live: LiveService, server: HttpServer) -> Json:
    """Submit an import whose URL expires during the load; return it after it has failed with committed parts."""
    server.rule = expire
    submitted = live.submit(f"{server.url}?signature=canary-old", KEY)
    failed = live.until_state(submitted["id"], "failed")
    assert failed["error"]["code"] == "source_forbidden"
    assert not failed["error"]["retryable"]
    assert f"importer retry {failed['id']} --url NEW_URL" in failed["error"]["hint"]
    assert 0 < committed_rows(live.database_url) < SAMPLE_ROWS
    return failed


def test_an_import_whose_signature_has_expired_resumes_from_a_new_url(
    live: LiveService, server: HttpServer
) -> None:
    failed = submit_expiring(live, server)
    new_url = f"{server.url}?signature=canary-new"
    before = len(server.requests)
    said = subprocess.run(
        [sys.executable, "-m", "importer", "retry", failed["id"], "--url", new_url],
        env={**os.environ, "IMPORTER_URL": live.url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"import {failed['id']}: queued\n"
    ended = live.until_state(failed["id"], "succeeded")
    assert ended["receipt"]["attempts"] == 2
    assert row_count(live.database_url) == SAMPLE_ROWS
    assert all("canary-new" in request.target for request in server.requests[before:])
    fetched = [request.first for request in server.requests[before:] if request.first]
    assert min(fetched) > 100_000  # committed bytes are not fetched again
    assert_nothing_is_left(live.database_url)

    shown = live.client.get(f"/imports/{failed['id']}").text
    for path in (failed["links"]["attempts"], f"{failed['links']['attempts']}/1/log"):
        shown += live.client.get(path).text
    shown += live.log.read_text() + said.stderr
    assert "canary" not in shown

    # The key still identifies the submitting request after the URL has changed.
    assert live.submit(f"{server.url}?signature=canary-old", KEY)["id"] == failed["id"]
    other = live.client.post("/imports", json={"url": new_url}, headers=KEY)
    assert_problem(other, 422, "idempotency_conflict")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b'{"url": "ftp://example.org/trips.csv"}', "application/json", 422, "invalid_url"),
        (b'{"url": "http://localhost\\\\@example.org/"}', "application/json", 422, "invalid_url"),
        (b'{"url": ""}', "application/json", 400, "invalid_request"),
        (b'{"uri": "http://localhost/"}', "application/json", 400, "invalid_request"),
        (b'{"url": "http://localhost/", "mode": "replace"}', "application/json", 400, "invalid_request"),
        (b"null", "application/json", 400, "invalid_request"),
        (b"{", "application/json", 400, "invalid_request"),
        (b'{"url": "http://localhost/"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"url": "http://localhost/%s"}' % (b"a" * 70_000), "application/json", 413, "body_too_large"),
    ],
)
def test_an_invalid_body_of_a_retry_is_refused_and_changes_nothing(
    body: bytes, content_type: str, status: int, code: str, refusing: Json, shared: LiveService
) -> None:
    answer = shared.client.post(
        refusing["links"]["retry"], content=body, headers={"Content-Type": content_type}
    )
    assert_problem(answer, status, code)
    assert shared.get(refusing["id"]) == refusing


@pytest.mark.parametrize("body", [b"", b"{}", b'{"url": null}'])
def test_a_retry_without_a_new_url_uses_the_old_one(
    body: bytes, refusing: Json, shared: LiveService, server_of_shared: HttpServer
) -> None:
    before = len(server_of_shared.requests)
    headers = {"Content-Type": "application/json"}
    assert shared.client.post(refusing["links"]["retry"], content=body, headers=headers).status_code == 202
    ended = shared.until_state(refusing["id"], "failed")
    assert ended["url"] == refusing["url"]
    assert {request.target for request in server_of_shared.requests[before:]} == {"/trips.csv?first"}


@pytest.fixture(scope="module")
def server_of_shared() -> Generator[HttpServer]:
    with HttpServer(b"") as server:
        server.rule = lambda _: Fault(status=403)
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Generator[LiveService]:
    with LiveService(tmp_path_factory.mktemp("service"), postgres) as live:
        yield live


@pytest.fixture(scope="module")
def submitted_to_shared(shared: LiveService, server_of_shared: HttpServer) -> str:
    return shared.submit(f"{server_of_shared.url}?first")["id"]


@pytest.fixture
def refusing(shared: LiveService, submitted_to_shared: str) -> Json:
    """A failed import that fails again when it is retried."""
    return shared.until_state(submitted_to_shared, "failed")
