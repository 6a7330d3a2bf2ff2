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
    *("client memory MB", "WAL MB", "rows in trips"),
]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the loader is compared with curl | psql")
def test_the_benchmark_shows_both_contenders_with_all_rows(tmp_path: Path) -> None:
    command = [sys.executable, str(COMPARE), "--rows=3000", "--runs=1", f"--folder={tmp_path}"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    lines = [
        line.replace(r"\|", "/").strip("|").split("|") for line in output.splitlines() if line[:1] == "|"
    ]
    table = [[cell.strip() for cell in line] for line in lines]
    assert table[0] == COLUMNS
    assert [(line[0], line[-1]) for line in table[2:4]] == [("curl / psql", "3,000"), ("loader", "3,000")]
    assert table[4] == ["goal", "at most", "measured", "holds"]

    trials = json.loads((tmp_path / "results.json").read_bytes())["contenders"]["trials"]
    assert [trial["label"] for trial in trials] == ["curl | psql", "loader"]
    for trial in trials:
        assert trial["rows"] == 3000
        assert min(trial["wall_seconds"], trial["client_peak_bytes"], trial["wal_bytes"]) > 0


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
