"""The benchmarks run, at a size that says nothing about speed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

COMPARE = Path(__file__).parents[1] / "benchmarks" / "compare.py"
COLUMNS = [
    *("", "wall s", "database CPU s/M rows", "client CPU s/GB"),
    *("client memory MB", "WAL MB", "stored MB", "rows in trips"),
]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the loader is compared with curl | psql")
def test_the_benchmark_shows_each_contender_with_all_rows_or_as_not_installed(tmp_path: Path) -> None:
    command = [sys.executable, str(COMPARE), "--rows=3000", "--runs=1", "--skip=pgloader"]
    output = subprocess.run(
        [*command, f"--folder={tmp_path}"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout

    measured, ratios, goals = tables_in(output)
    assert measured[0] == COLUMNS
    rows = {line[0]: line[-1] for line in measured if "not installed" not in line}
    assert {"curl | psql", "loader", "the limit"} <= rows.keys()
    assert {line[0] for line in measured[2:]} == {"curl | psql", "loader", "the limit", "ADBC", "DuckDB"}
    assert [line[0] for line in ratios[2:]] == list(rows)[2:]
    assert goals[0] == ["goal", "at most", "measured", "holds"]

    trials = json.loads((tmp_path / "results.json").read_bytes())["contenders, wal_level=minimal"]["trials"]
    assert [trial["label"] for trial in trials] == list(rows)[2:]
    for trial in trials:
        assert trial["rows"] == 3000
        assert rows[trial["label"]] == "3,000"
        assert min(trial["wall_seconds"], trial["client_peak_bytes"], trial["wal_bytes"]) > 0


def tables_in(output: str) -> list[list[list[str]]]:
    """Return the cells of each Markdown table."""
    tables: list[list[list[str]]] = [[]]
    for line in output.splitlines():
        if line[:1] == "|":
            cells = line.replace(r"\|", "\0").strip("|").split("|")
            tables[-1].append([cell.strip().replace("\0", "|") for cell in cells])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


def test_the_benchmark_of_the_service_shows_every_figure_and_goal(tmp_path: Path) -> None:
    command = [sys.executable, str(COMPARE), "--service", "--rows=400000", "--runs=1", "--get-seconds=1"]
    output = subprocess.run(
        [*command, f"--folder={tmp_path}"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout

    goals = output.partition("| goal |")[2]
    for measured in ("GET", "first message", "last COPY ended", "submit 1,000", "memory", "service ÷ CLI"):
        assert measured in goals
    (trial,) = json.loads((tmp_path / "results.json").read_bytes())["service"]["trials"]
    assert len(trial["requests"]["gets"]) == 50
    assert 0 < trial["cancel"]["stop_seconds"] <= trial["cancel"]["cancelled_seconds"]
    assert len(trial["cli"]) == len(trial["service"]) > 0
