"""The layout shows the design: imports run one way, and each module says what it owns."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
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


def test_postgres_is_spoken_to_in_the_database_modules_alone() -> None:
    speakers = {
        path.stem
        for path in SOURCE.glob("loader/*.py")
        if "import psycopg" in (text := path.read_text()) or "from psycopg" in text
    }
    assert speakers <= {
        "database",
        "ledger",
        "claim",
        "part",
        "publication",
        "removal",
        "trips_table",
        "load",
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_module_says_what_it_owns_and_is_short_enough_to_read(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


def test_the_architecture_page_names_every_module_of_the_loader() -> None:
    page = (SOURCE.parent / "docs" / "architecture.md").read_text()
    modules = page.split("\n## Modules\n")[1]
    named = set(re.findall(r"`(\w+)`", modules))
    assert named == {path.stem for path in SOURCE.glob("loader/*.py")} - {"__init__"}
