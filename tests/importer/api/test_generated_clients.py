"""Linters find no fault with the OpenAPI document, and clients that are generated from it work, types included."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest
from litestar import Litestar
from litestar.di import Provide

from importer.api.app import HANDLERS
from importer.api.openapi import openapi_config
from importer.api.openapi_document import complete
from tests.support.commands import output_of
from tests.support.http_server import HttpServer
from tests.support.live_service import LiveService
from tests.support.npm_packages import node_command, npm_packages
from tests.support.paths import ROOT

CLIENTS = ROOT / "tests" / "clients"

WITHOUT_NOTICES = {"REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}  # of new versions


@pytest.fixture(scope="module")
def packages() -> Path:
    return npm_packages()


@pytest.fixture
def document(service: LiveService, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(service.client.get("/schema/openapi.json").content)
    return path


def test_npm_packages_are_locked_by_hash_and_without_the_address_of_a_registry() -> None:
    lock = json.loads((CLIENTS / "package-lock.json").read_text())
    del lock["packages"][""]  # the project
    assert {name for name, each in lock["packages"].items() if not each.get("integrity")} == set()
    assert {name for name, each in lock["packages"].items() if "resolved" in each} == set()


LINTERS = pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("@redocly/cli/bin/cli.js", ["lint", f"--config={CLIENTS / 'redocly.yaml'}"]),
        (
            "@stoplight/spectral-cli/dist/index.js",
            ["lint", "--fail-severity=hint", f"--ruleset={CLIENTS / 'spectral.yaml'}"],
        ),
    ],
    ids=["redocly", "spectral"],
)


@pytest.mark.slow
@LINTERS
def test_a_linter_finds_no_fault(packages: Path, document: Path, script: str, arguments: list[str]) -> None:
    command = [*node_command(packages / script), *arguments, document.name]
    output_of(command, folder=document.parent, environment=WITHOUT_NOTICES)


@pytest.mark.slow
@LINTERS
def test_a_linter_finds_no_fault_with_a_token_and_below_a_prefix(
    packages: Path, tmp_path: Path, script: str, arguments: list[str]
) -> None:
    config = openapi_config("1", root_path="/importer", requires_token=True)
    app = Litestar(
        HANDLERS, openapi_config=config, dependencies={"service": Provide(lambda: None, sync_to_thread=False)}
    )
    complete(app.openapi_schema)
    (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(app.openapi_schema.to_schema()))
    command = [*node_command(packages / script), *arguments, "openapi.json"]
    output_of(command, folder=tmp_path, environment=WITHOUT_NOTICES)


@pytest.mark.slow
def test_a_typescript_client_passes_its_type_checker_and_runs_the_whole_flow(
    service: LiveService, packages: Path, document: Path, sample: bytes
) -> None:
    folder = document.parent
    (folder / "node_modules").symlink_to(packages)
    (folder / "package.json").write_text('{"type": "module"}')
    for name in ("flow.ts", "tsconfig.json"):
        (folder / name).write_bytes((CLIENTS / name).read_bytes())
    generator = packages / "openapi-typescript" / "bin" / "cli.js"
    output_of([*node_command(generator), document.name, "--output", "schema.d.ts"], folder=folder)
    output_of(node_command(packages / "typescript" / "bin" / "tsc"), folder=folder)
    bad = sample + b"no trip\n"
    with HttpServer(sample) as source, HttpServer(bad) as bad_source:
        flow = node_command(folder / "flow.js")
        rows = output_of([*flow, service.url, source.url, bad_source.url], folder=folder)
    assert int(rows) == sample.count(b"\n") - 1


@pytest.mark.slow
def test_a_python_client_passes_its_type_checker_and_runs_the_whole_flow(
    service: LiveService, document: Path, sample: bytes
) -> None:
    folder = document.parent
    programs = Path(sys.executable).parent
    (folder / "generator.yml").write_text("post_hooks: []\n")  # no linter
    generator = [programs / "openapi-python-client", "generate", "--path", document.name]
    options = ["--output-path", "client", "--meta", "none", "--config", "generator.yml"]
    generated = output_of([*generator, *options], folder=folder)
    assert "WARNING" not in generated.upper()
    (folder / "flow.py").write_bytes((CLIENTS / "flow.py").read_bytes())
    (folder / "pyrightconfig.json").write_text('{"include": ["flow.py"], "typeCheckingMode": "strict"}')
    output_of([programs / "pyright", "--pythonpath", sys.executable], folder=folder)
    with HttpServer(sample) as source, HttpServer(sample + b"no trip\n") as bad_source:
        rows = output_of([sys.executable, "flow.py", service.url, source.url, bad_source.url], folder=folder)
    assert int(rows) == sample.count(b"\n") - 1
