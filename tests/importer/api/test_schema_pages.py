"""The pages under /schema load files of this server only, and a browser shows the operations."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.testing import RequestFactory

from importer.api.problems import ProblemCode
from importer.api.requests import AnyRequest
from importer.api.schema_pages import RenderedOnce
from loader.contract import FailureCode
from tests.support.live_service import LiveService

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_LINK = re.compile(r'(?:src|href)="([^"]+)"')


def test_the_page_loads_files_of_this_server_only(service: LiveService) -> None:
    page = service.client.get("/schema")
    links = _LINK.findall(page.text)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/schema/")
        answer = service.client.get(link)
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] in ("text/css", "text/javascript", "image/png")
        assert answer.content
    assert '"/schema/openapi.json"' in service.client.get("/schema/start.js").text


class CountedRendering(OpenAPIRenderPlugin):
    """A plugin that counts its renderings."""

    def __init__(self) -> None:
        super().__init__(path="/openapi.counted")
        self.count = 0

    def render(self, request: AnyRequest, openapi_schema: Mapping[str, object]) -> bytes:  # noqa: ARG002 - Litestar's signature
        self.count += 1
        return b"document %d" % self.count


def test_the_document_is_rendered_at_the_first_request_only() -> None:
    counted = CountedRendering()
    rendered = RenderedOnce(counted)
    request = RequestFactory().get("/schema/openapi.counted")
    assert {rendered.render(request, {}) for _ in range(3)} == {b"document 1"}
    assert counted.count == 1


def test_a_content_security_policy_forbids_other_sources(service: LiveService) -> None:
    for path in ("/schema", "/schema/problems", "/schema/start.js"):
        policy = service.client.get(path).headers["content-security-policy"]
        directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
        assert directives["default-src"] == "'none'"
        assert directives["script-src"] == "'self'"
        assert directives["connect-src"] == "'self'"
        assert "http" not in policy
    assert not re.search(r"<script>|<script [^>]*>[^<]|\son\w+=", service.client.get("/schema").text)


def test_the_type_of_a_problem_links_to_the_meaning_of_its_code(service: LiveService) -> None:
    page = service.client.get("/schema/problems").text
    for code in ProblemCode:
        assert f'id="{code}"' in page
    for failure_code in FailureCode:
        assert f'id="failure-{failure_code}"' in page


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_operations(service: LiveService, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    shown = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-dev-shm-usage", "--virtual-time-budget=20000", f"--user-data-dir={tmp_path}"),
            "--dump-dom",
            f"{service.url}/schema",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    for operation in ("submitImport", "watchImport", "removeImport", "getReadiness"):
        assert operation in shown.stdout
    assert "Submit an import" in shown.stdout
    assert "Refused" not in shown.stderr  # by the policy
