"""The pages that list settings and commands list those that the code has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_configuration_page_lists_the_environment_that_is_read() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "src").glob("*/*.py"))
    read = set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', code)) - {"HOME", "LOADER_FAILPOINT"}
    rows = [
        line for line in (ROOT / "docs" / "configuration.md").read_text().splitlines() if line[:3] == "| `"
    ]
    listed = {name for row in rows for name in re.findall(r"[A-Z][A-Z_]+", "|".join(row.split("|")[1:3]))}
    assert read <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_in_a_page_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z][a-z-]+)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_a_page_exist(page: Path) -> None:
    for command, rest in re.findall(
        r"\bloader (run|check|imports|rejects|drop|gc|sample|postgres)\b([^`|\n]*)", page.read_text()
    ):
        options = set(re.findall(r"--[a-z-]+", rest))
        assert options <= options_of(command) | {"--help"}, (command, rest)


_known: dict[str, set[str]] = {}


def options_of(command: str) -> set[str]:
    """Return the options that `loader COMMAND --help` shows."""
    if command not in _known:
        shown = subprocess.run(
            [sys.executable, "-m", "loader", command, "--help"], capture_output=True, text=True, check=True
        )
        _known[command] = set(re.findall(r"--[a-z-]+", shown.stdout))
    return _known[command]
