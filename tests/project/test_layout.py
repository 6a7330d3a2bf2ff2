"""The layout shows the design: imports run one way, and each module says what it owns."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCE = ROOT / "src"
MODULES = sorted(SOURCE.glob("*/*.py"))


def imported(path: Path) -> set[str]:
    """Return the project's modules that a file imports, as package.module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in ("loader", "importer"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith(("loader.", "importer."))}


IMPORTS = {f"{path.parent.name}.{path.stem}": imported(path) for path in MODULES}


def reachable(module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in IMPORTS.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


@pytest.mark.parametrize("module", IMPORTS)
def test_no_module_imports_itself_through_others(module: str) -> None:
    assert module not in reachable(module)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("loader.wire", "loader."),  # the contract imports nothing of the project
        ("loader.errors", "loader.load"),
        ("loader.source", "loader.database"),  # the source knows no Postgres
        ("loader.encode", "loader.database"),
        ("loader.part", "loader.source"),  # the database's side knows no source
        ("loader.publication", "loader.source"),
        ("loader.blocks", "loader.source"),
        ("loader.ledger", "loader.encode"),  # the service reads the ledger without the compiler
        ("loader.load", "loader.cli"),
        ("loader.run", "loader.cli"),
        ("importer.imports", "importer."),
        ("importer.problems", "importer.store"),
        ("importer.outcome", "importer.store"),  # what becomes of an import is decided by facts alone
        ("importer.outcome", "loader.database"),
        ("importer.store", "importer.supervisor"),
        ("importer.store", "importer.representation"),  # what is stored does not follow what is shown
        ("importer.supervisor", "importer.api"),
        ("importer.supervisor", "importer.representation"),
        ("importer.api", "importer.server"),
        ("importer.client", "importer.store"),  # the client knows the API, nothing behind it
        ("importer.client", "importer.settings"),
    ],
)
def test_imports_run_downward(lower: str, upper: str) -> None:
    assert not {name for name in reachable(lower) if name.startswith(upper)}


def test_the_loader_never_imports_the_importer() -> None:
    assert not {
        name
        for module in IMPORTS
        if module.startswith("loader.")
        for name in reachable(module)
        if name.startswith("importer.")
    }


def test_the_importer_takes_of_the_loader_its_contract_and_what_reads_the_ledger_and_nothing_that_loads() -> (
    None
):
    taken = {
        name.removeprefix("loader.")
        for module in IMPORTS
        if module.startswith("importer.")
        for name in IMPORTS[module]
        if name.startswith("loader.")
    }
    contract = {"wire", "errors", "http_address", "address_policy"}
    ledger = {"ledger", "database", "import_tables", "trips_notes", "trips_table", "trips", "rejects"}
    shared = {"embedded", "display", "bar", "printable", "command_line", "versions", "failpoint"}
    assert taken <= contract | ledger | shared


def test_the_service_never_imports_the_compiler() -> None:
    assert "loader.jit" not in reachable("importer.server")
    assert "loader.jit" not in reachable("importer.cli")


def test_sqlite_is_spoken_to_in_the_control_db_alone() -> None:
    assert users_of(r"\bsqlite3\.connect\b", "importer") == {"control_database"}


def test_processes_are_started_in_one_module_of_the_importer() -> None:
    assert users_of(r"\bsubprocess\b", "importer") == {"loader_process"}


def users_of(pattern: str, package: str) -> set[str]:
    """Return the modules of a package in whose text the pattern is."""
    return {path.stem for path in SOURCE.glob(f"{package}/*.py") if re.search(pattern, path.read_text())}


def test_postgres_is_spoken_to_in_the_database_modules_alone() -> None:
    speakers = {
        path.stem
        for path in SOURCE.glob("loader/*.py")
        if "import psycopg" in (text := path.read_text()) or "from psycopg" in text
    }
    assert speakers <= {
        "database",
        "database_errors",
        "connect_refusal",
        "pulse",
        "copy_writer",
        "ledger",
        "ledger_version",
        "claim",
        "import_tables",
        "indexing",
        "part",
        "publication",
        "removal",
        "trips_notes",
        "trips_table",
        "trips_check",
        "load",
        "versions",  # asks libpq for its own
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_module_says_what_it_owns_and_is_short_enough_to_read(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("package", ["loader", "importer"])
def test_the_architecture_page_names_every_module(package: str) -> None:
    page = (SOURCE.parent / "docs" / "architecture.md").read_text()
    table = page.split(f"| files of `src/{package}/` |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)`", table)
    assert sorted(named) == sorted({path.stem for path in SOURCE.glob(f"{package}/*.py")} - {"__init__"})
