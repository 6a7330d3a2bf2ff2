"""HEAD has the status and the headers of GET, and no body, for each path."""

from __future__ import annotations

import pytest

from tests.support.http_server import Fault, HttpServer
from tests.support.live_service import LiveService
from tests.support.loader_process import wait_for

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

UNKNOWN = "0190b2c4-5e2f-7b3a-9c1d-2f4e6a8b0c1d"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/imports",
        f"/imports/{UNKNOWN}",
        "/health/live",
        "/health/ready",
        "/schema",
        "/schema/openapi.json",
        "/schema/openapi.yaml",
        "/schema/problems",
        "/schema/assets/swagger-ui-bundle.js",
        "/nowhere",
    ],
)
def test_head_has_the_head_of_get(service: LiveService, path: str) -> None:
    got, head = service.client.get(path), service.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    for name in ("content-type", "content-length", "location", "content-security-policy"):
        assert head.headers.get(name) == got.headers.get(name), name


def test_head_of_metrics_has_no_body(service: LiveService) -> None:
    head = service.client.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")


def test_head_of_an_event_stream_ends_it(service: LiveService) -> None:
    with HttpServer(b"") as source:
        source.rule = lambda _: Fault(before="stall")
        links = service.submit(source.url)["links"]
        head = service.client.head(links["events"])
        assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
        wait_for("the end of the stream", lambda: service.metric("importer_event_streams") == 0)
        assert service.client.head(f"{links['self']}/rejects").status_code == 409
        service.client.post(links["cancel"])


def test_a_post_has_no_head(service: LiveService) -> None:
    answer = service.client.head(f"/imports/{UNKNOWN}/cancel")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"OPTIONS", "POST"}
