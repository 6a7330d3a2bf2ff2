"""With a token, every request needs it but GET /health/live; programs, browsers and the command can send it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest
import yaml

from loader.contract import ExitCode
from tests.support.live_service import LiveService, assert_problem, fresh_database
from tests.support.loader_process import DEADLINE_SECONDS
from tests.support.paths import ROOT

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

TOKEN = "canary-4f7c~3b/9+d1.0_e=="
BEARER = {"Authorization": f"Bearer {TOKEN}"}
UNKNOWN = "0190b2c4-5e2f-7b3a-9c1d-2f4e6a8b0c1d"
PAGES = [
    "/",
    "/schema",
    "/schema/",
    "/schema/openapi.json",
    "/schema/openapi.yaml",
    "/schema/problems",
    "/schema/start.js",
]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Generator[LiveService]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "token").write_text(f"{TOKEN}\n")
    environment = {"IMPORTER_TOKEN_FILE": str(folder / "token"), "LIMITED_SERVICE_DEBUG": "1"}
    with fresh_database(postgres) as url, LiveService(folder, url, environment, limited=True) as live:
        yield live


def importer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "importer", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/imports"),
        ("HEAD", "/imports"),
        ("POST", "/imports"),
        ("OPTIONS", "/imports"),
        ("DELETE", f"/imports/{UNKNOWN}"),
        ("GET", f"/imports/{UNKNOWN}/events"),
        ("GET", "/health/ready"),
        ("GET", "/health/live/"),
        ("GET", "//health/live"),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
        *(("GET", path) for path in PAGES),
    ],
)
def test_a_request_without_the_token_is_refused(service: LiveService, method: str, path: str) -> None:
    answer = service.client.request(method, path)
    assert answer.status_code == 401
    if method != "HEAD":
        problem = assert_problem(answer, 401, "unauthorized")
        assert "IMPORTER_TOKEN" in problem["hint"]
    assert ("Basic" in answer.headers["www-authenticate"]) == (path in PAGES)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Token {TOKEN}"},
        {"Authorization": "Basic !"},
        {"Authorization": "Bearer \xff"},
        basic("importer", TOKEN),  # for the pages only
    ],
)
def test_a_wrong_token_is_refused_as_invalid(service: LiveService, headers: Mapping[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = service.client.get("/imports", headers=raw)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer realm="importer", error="invalid_token"'


def test_two_authorization_headers_are_refused(service: LiveService) -> None:
    answer = service.client.get("/imports", headers=[*BEARER.items(), ("Authorization", "Bearer other")])
    assert_problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/imports", "/health/ready", "/metrics", *PAGES[1:]])
def test_a_request_with_the_token_is_handled(service: LiveService, path: str) -> None:
    assert service.client.get(path, headers=BEARER).status_code == 200
    assert service.client.get(path, headers={"Authorization": f"bearer  {TOKEN}"}).status_code == 200


def test_liveness_needs_no_token(service: LiveService) -> None:
    assert service.client.get("/health/live").status_code == 200


@pytest.mark.parametrize("path", PAGES[1:])
def test_a_browser_sends_the_token_as_the_password_for_a_page(service: LiveService, path: str) -> None:
    assert service.client.get(path, headers=basic("anyone", TOKEN)).status_code == 200
    assert service.client.get(path, headers=basic(TOKEN, "")).status_code == 401


def test_the_document_has_the_token_as_a_security_scheme(service: LiveService) -> None:
    document = service.client.get("/schema/openapi.json", headers=BEARER).json()
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert document["security"] == [{name: []}]
    assert document["paths"]["/health/live"]["get"]["security"] == []
    assert not any("security" in operation for operation in document["paths"]["/imports"].values())


def test_refused_requests_are_counted_by_their_code(service: LiveService) -> None:
    def count(code: str) -> float:
        text = service.client.get("/metrics", headers=BEARER).text
        found = re.search(rf'^importer_refused_requests_total{{code="{code}"}} (\S+)$', text, re.MULTILINE)
        assert found is not None
        return float(found[1])

    before = [count("unauthorized"), count("unknown_host")]
    service.client.get("/imports")
    service.client.get("/imports", headers={**BEARER, "Host": "evil.example"})
    assert [count("unauthorized"), count("unknown_host")] == [before[0] + 1, before[1] + 1]


@pytest.mark.parametrize("source", ["variable", "file", "option"])
def test_the_command_takes_the_token_from_a_variable_or_a_file(service: LiveService, source: str) -> None:
    path = str(service.folder / "token")
    arguments = ["--token-file", path] if source == "option" else []
    environment = {"variable": {"IMPORTER_TOKEN": TOKEN}, "file": {"IMPORTER_TOKEN_FILE": path}}.get(
        source, {"IMPORTER_TOKEN": "another"}
    )
    shown = importer("list", *arguments, IMPORTER_URL=service.url, **environment)
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({}, "unauthorized"),
        ({"IMPORTER_TOKEN": "canary"}, "unauthorized"),
        ({"IMPORTER_TOKEN": "can ary"}, "usage"),
    ],
)
def test_the_command_says_how_to_set_the_token(
    service: LiveService, environment: dict[str, str], code: str
) -> None:
    shown = importer("list", IMPORTER_URL=service.url, **environment)
    assert shown.returncode == ExitCode.USAGE
    assert shown.stderr.startswith(f"{code}: ")
    assert "IMPORTER_TOKEN_FILE" in shown.stderr
    assert "canary" not in shown.stderr


@pytest.mark.parametrize("content", [None, "", "two canaries"])
def test_the_service_does_not_start_with_a_file_without_a_token(
    service: LiveService, content: str | None
) -> None:
    path = service.folder / "no-token"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    shown = importer(
        "serve", "--port", "0", "--data-dir", str(service.folder / "data"), IMPORTER_TOKEN_FILE=str(path)
    )
    assert shown.returncode == ExitCode.CONFIGURATION
    assert str(path) in shown.stderr
    assert "openssl rand" in shown.stderr
    assert "canaries" not in shown.stderr


def test_the_token_is_in_no_log(service: LiveService) -> None:
    service.client.get("/imports", headers=BEARER)
    service.client.get("/imports", headers={"Authorization": "Bearer canary-wrong"})
    service.client.get("/schema", headers=basic("any", TOKEN))
    log = service.log.read_text()
    assert str(service.folder / "token") in log  # `importer serve` says where it is
    assert "canary" not in log


@pytest.mark.parametrize("is_right", [True, False])
def test_the_health_check_of_compose_sends_the_token(
    service: LiveService, tmp_path: Path, is_right: bool
) -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose" / "token.yaml").read_text())
    *_, program = compose["services"]["importer"]["healthcheck"]["test"]
    (tmp_path / "token").write_text(f"{TOKEN if is_right else 'another'}\n")
    checked = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8000", service.url)],
        env={**os.environ, "IMPORTER_TOKEN_FILE": str(tmp_path / "token")},
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert (checked.returncode == 0) == is_right
