"""Rules of the layout that import-linter can't express: who starts processes, who uses SQL, how long a file is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCE = ROOT / "src"
MODULES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path for path in SOURCE.glob("*/*/") if (path / "__init__.py").exists())


def name_of(path: Path) -> str:
    """Return a module's dotted name; a package has that of its folder."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Return the project's modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & NAMES


NAMES = {name_of(path) for path in MODULES}
IMPORTS = {name_of(path): imported(path) for path in MODULES}


def reachable(module: str) -> set[str]:
    """Return the modules that a module imports, directly or indirectly."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in IMPORTS[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


@pytest.mark.parametrize("module", IMPORTS)
def test_no_module_imports_itself_through_others(module: str) -> None:
    assert module not in reachable(module)


@pytest.mark.parametrize("program", ["importer.server.server", "importer.cli.main", "loader.postgres.ledger"])
def test_neither_service_nor_ledger_import_the_compiler(program: str) -> None:
    assert "loader.kernel.jit" not in reachable(program)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: f"{room.parent.name}/{room.name}")
def test_the_init_of_a_room_has_a_docstring_only(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text())
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: f"{room.parent.name}/{room.name}")
def test_the_architecture_page_has_one_line_per_room(room: Path) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split(f"### src/{room.parent.name}\n")[1].split("\n### ")[0].split("\n## ")[0]
    assert len(re.findall(rf"^\| `{room.name}/` \|", section, re.MULTILINE)) == 1


def test_only_the_control_db_uses_sqlite() -> None:
    assert users_of(r"sqlite3?\.connect\b", "importer") == {"importer.store.database"}


def test_one_module_of_the_importer_starts_processes() -> None:
    assert users_of(r"\bsubprocess\b", "importer") == {"importer.supervisor.process"}


def test_only_the_postgres_room_and_part_use_psycopg() -> None:
    speakers = users_of(r"\b(import|from) psycopg", "loader")
    others = {name for name in speakers if not name.startswith("loader.postgres.")}
    # version asks libpq for its own
    assert others <= {"loader.pipeline.part", "loader.version"}


def users_of(pattern: str, package: str) -> set[str]:
    """Return the modules of a package whose text matches a pattern."""
    return {
        name_of(path) for path in (SOURCE / package).rglob("*.py") if re.search(pattern, path.read_text())
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_a_docstring_and_at_most_400_lines(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400
