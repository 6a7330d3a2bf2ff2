"""The pages agree with the code: settings, states, codes, operations, commands, tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from importer.api.app import HANDLERS
from importer.api.health import get_metrics
from importer.api.problems import PROBLEM_KINDS
from importer.api.request_bodies import NewImport

# the texts of --help name the commands
from importer.cli.parser import EXAMPLES as IMPORTER_EXAMPLES
from importer.model import TRANSITIONS, State
from loader.cli.parser import EXAMPLES as LOADER_EXAMPLES
from loader.contract import FailureCode
from tests.support.command_help import options_of
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_configuration_page_lists_the_environment_that_is_read() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    read = set(re.findall(r'(?:environ|environment)(?:\.get\(|\[)"(\w+)"', code))
    read |= set(re.findall(r'"(IMPORTER_[A-Z_]+|DATABASE_URL)"', code))  # the service's settings
    names = r"[A-Z][A-Z_]+"
    listed = {
        name
        for row in rows_of("configuration.md", r"The .*|All .*")
        for name in re.findall(names, " ".join(row[:2]))
    }
    assert read - {"HOME", "IMPORTER_FAILPOINT"} <= listed
    assert {name for name in listed if name.startswith("IMPORTER_")} <= read


def test_the_api_page_lists_states_and_transitions() -> None:
    listed = {row[0]: set(re.findall(r"\w+", row[2])) for row in rows_of("api.md", "States")}
    assert listed == {
        state.value: {target.value for origin, target in TRANSITIONS if origin is state} for state in State
    }


def test_the_architecture_page_draws_the_transitions() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawn = re.findall(
        r"^    (\w+) --> (\w+)", page.split("stateDiagram-v2")[1].split("```")[0], re.MULTILINE
    )
    assert set(drawn) == {(origin.value, target.value) for origin, target in TRANSITIONS}


def test_the_api_page_lists_the_codes_of_problems() -> None:
    listed = [row[:2] for row in rows_of("api.md", "Errors")]
    assert sorted(listed) == sorted([str(kind.status), code.value] for code, kind in PROBLEM_KINDS.items())


def test_the_api_page_lists_the_operations() -> None:
    listed = {row[0] for row in rows_of("api.md", "Operations")}
    assert listed == {
        f"{method} {path.replace('import_id', 'id').replace(':str}', '}')}"
        for handler in (*HANDLERS, get_metrics)
        for path in handler.paths
        for method in handler.http_methods
    }


def test_the_api_page_lists_the_fields_of_a_request() -> None:
    assert [row[0] for row in rows_of("api.md", "An import's request")] == list(NewImport.__struct_fields__)


def test_the_operations_page_says_what_to_do_for_each_failure_code() -> None:
    listed = {row[0]: row[1] for row in rows_of("operations.md", "Failed imports")}
    assert list(listed) == [code.value for code in FailureCode]
    assert all(listed.values())


def test_the_reliability_page_and_the_tests_are_in_step() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    tests = {
        f"{path.name}::{name}": path.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+\.py::test_\w+)`", page))
    assert named <= set(tests)
    assert {test for test, file in tests.items() if file.startswith("test_faults_")} <= named


def test_each_fault_of_the_reliability_page_names_its_test_or_the_reason() -> None:
    for fault, *_, proof in rows_of("reliability.md", r"[A-Z].*"):
        assert "::test_" in proof or proof.startswith("not provoked: "), fault


def test_the_testing_page_names_files_that_exist() -> None:
    for _, files, _ in rows_of("testing.md", "What each layer proves"):
        for name in re.findall(r"test_[a-z_*]+\.py", files):
            assert list((ROOT / "tests").rglob(name)), name


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Return the rows of all tables under the headings of a page that match a pattern, without their heads."""
    found: list[list[str]] = []
    for section in (ROOT / "docs" / page).read_text().split("\n## ")[1:]:
        if re.fullmatch(heading, section.split("\n")[0]):
            for table in re.findall(r"^\|.+\n\|[-:| ]+\n((?:\|.*(?:\n|$))*)", section, re.MULTILINE):
                rows = [line.strip("|").split("|") for line in table.splitlines()]
                found += [[cell.strip().strip("`") for cell in row] for row in rows]
    assert found, f"{page} has no table under {heading}"
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), f"{target}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_modules_in_a_page_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`((?:src|tests|docs|deploy|benchmarks|examples)/[\w./-]*)", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"`(\w+\.py)`", text):
        assert any(list((ROOT / folder).rglob(module)) for folder in ("src", "tests", "benchmarks")), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_in_a_page_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z][a-z-]+)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_a_page_exist(page: Path) -> None:
    commands = "|".join({**LOADER_EXAMPLES, **IMPORTER_EXAMPLES}).strip("|")
    for program, command, rest in re.findall(
        rf"\b(loader|importer) ({commands})\b([^`|\n]*)", page.read_text()
    ):
        options = set(re.findall(r"--[a-z-]+", rest))
        assert options <= options_of(program, command) | {"--help"}, (command, rest)
