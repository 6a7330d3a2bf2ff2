"""Below the path prefix of a reverse proxy, links, Location, page and assets lead back to the service."""

from __future__ import annotations

import re
from collections.abc import Generator

import httpx
import pytest

from tests.support.http_server import HttpServer
from tests.support.live_service import LiveService, fresh_database
from tests.support.loader_process import DEADLINE_SECONDS
from tests.support.reverse_proxy import ReverseProxy

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

PREFIX = "/team-7/importer"
UNKNOWN = "0190b2c4-5e2f-7b3a-9c1d-2f4e6a8b0c1d"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Generator[LiveService]:
    with (
        fresh_database(postgres) as database_url,
        LiveService(
            tmp_path_factory.mktemp("service"), database_url, {"IMPORTER_ROOT_PATH": f"{PREFIX}/"}
        ) as live,
    ):
        yield live


@pytest.fixture(scope="module", params=[True, False], ids=["strips the prefix", "keeps the prefix"])
def client(request: pytest.FixtureRequest, service: LiveService) -> Generator[httpx.Client]:
    """A client of the service behind a proxy of either kind. Its paths are those that people see: with the prefix."""
    origin = service.url.removesuffix(PREFIX)
    with (
        ReverseProxy(origin, PREFIX, strips_prefix=bool(request.param)) as proxy,
        httpx.Client(base_url=proxy.url, timeout=DEADLINE_SECONDS, trust_env=False) as client,
    ):
        yield client


def test_links_and_location_lead_back_through_the_proxy(client: httpx.Client) -> None:
    with HttpServer(b"") as empty:
        answer = client.post(f"{PREFIX}/imports", json={"url": empty.url, "force": True})
        assert answer.status_code == 202
        assert answer.headers["location"] == answer.json()["links"]["self"]
        links = answer.json()["links"]
        assert all(link.startswith(f"{PREFIX}/imports/") for link in links.values() if link)
        events = client.get(links["events"])  # until the import has failed
    assert f'"self":"{links["self"]}"' in events.text
    assert client.get(links["self"]).json()["state"] == "failed"


def test_the_page_its_assets_and_the_document_are_below_the_prefix(client: httpx.Client) -> None:
    redirect = client.get(f"{PREFIX}/")
    assert (redirect.status_code, redirect.headers["location"]) == (302, f"{PREFIX}/schema")
    page = client.get(f"{PREFIX}/schema")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) >= 3
    for path in loaded:
        assert path.startswith(f"{PREFIX}/schema/")
        assert client.get(path).status_code == 200
    document = f"{PREFIX}/schema/openapi.json"
    assert f'"{document}"' in client.get(f"{PREFIX}/schema/start.js").text
    assert client.get(document).json()["servers"] == [{"url": PREFIX}]


def test_the_type_of_a_problem_is_below_the_prefix(client: httpx.Client) -> None:
    for path in (f"/imports/{UNKNOWN}", "/nowhere"):
        problem = client.get(PREFIX + path).json()
        assert problem["type"] == f"{PREFIX}/schema/problems#{problem['code']}"


def test_a_path_that_only_begins_like_the_prefix_is_another(service: LiveService) -> None:
    origin = service.url.removesuffix(PREFIX)
    assert httpx.get(f"{origin}{PREFIX}x/health/live", trust_env=False).status_code == 404
