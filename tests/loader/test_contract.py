"""docs/loader-contract.md agrees with contract.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from loader import contract
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "loader-contract.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    section = PAGE.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = section[section.index("\n|") :].strip().split("\n\n", 1)[0].splitlines()
    rows = [line.strip("|").split(" | ") for line in lines]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def test_every_failure_code_has_an_exit_code_and_stands_in_the_page() -> None:
    expected = [
        [
            str(code),
            str(kind.exit_code.value),
            "yes" if kind.retryable else "no",
            kind.staging,
            kind.meaning,
        ]
        for code, kind in ((code, contract.FAILURE_KINDS[code]) for code in contract.FailureCode)
    ]
    assert table("Failure codes") == expected


def test_the_page_lists_the_exit_codes() -> None:
    assert [row[:2] for row in table("Exit codes")] == [
        [str(code.value), code.name] for code in contract.ExitCode
    ]


def test_the_page_lists_the_fields_of_a_job() -> None:
    assert [row[0] for row in table("Start")] == list(contract.Job.__struct_fields__)


def test_the_page_lists_the_messages_and_their_fields() -> None:
    expected = {
        str(message.__struct_config__.tag): set(message.__struct_fields__)
        for message in get_args(contract.Message)
    }
    assert {row[0]: set(re.findall(r"\w+", row[2])) for row in table("Messages")} == expected


@pytest.mark.parametrize("struct", [contract.Progress, contract.Receipt, contract.Failure])
def test_the_page_names_each_field_of(struct: type[msgspec.Struct]) -> None:
    paragraph = PAGE.split(f"\n`{struct.__name__.lower()}`: ", 1)[1].split("\n\n", 1)[0]
    assert set(struct.__struct_fields__) <= set(re.findall(r"`(\w+)`", paragraph))


def test_the_page_names_each_phase() -> None:
    paragraph = PAGE.split("\n`phase` is ", 1)[1].split(". ", 1)[0]
    assert re.findall(r"`(\w+)`", paragraph) == list(get_args(contract.Phase))


def test_the_help_lists_the_exit_codes() -> None:
    from loader.cli.parser import EXAMPLES

    listed = {int(code) for code in re.findall(r"\b(\d+) ", EXAMPLES[""].split("exit codes:")[1])}
    assert listed == {code.value for code in contract.ExitCode}


@pytest.mark.parametrize(
    "fields",
    [
        {"import_id": "mine"},
        {"import_id": "0190b2c4-0000-7000-8000-000000000001\n"},
        {"workers": 0},
        {"workers": -1},
    ],
    ids=str,
)
def test_a_job_with_what_no_loader_can_do_is_refused_as_a_whole(
    fields: dict[str, object], tmp_path: Path
) -> None:
    job = {"source": str(tmp_path / "trips.csv"), "database_url": "postgresql://127.0.0.1:1/none", **fields}
    loader = subprocess.run(
        [sys.executable, "-m", "loader", "run"],
        input=msgspec.json.encode(job) + b"\n",
        capture_output=True,
        check=False,
    )
    assert (loader.returncode, loader.stdout) == (contract.ExitCode.USAGE, b"")
    assert next(iter(fields)) in loader.stderr.decode()
