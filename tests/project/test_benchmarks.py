"""The benchmarks run, on small files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from tests.support.paths import ROOT

# Real processes, some seconds each.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks limit cores and read /proc, on Linux"),
]

COMPARE = [sys.executable, "-m", "benchmarks.compare"]
COLUMNS = [
    *("", "wall s", "database CPU s/M rows", "client CPU s/GB"),
    *("client memory MB", "WAL MB", "stored MB", "rows in trips"),
]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the loader is compared with curl | psql")
def test_the_comparison_shows_each_contender_with_all_rows_or_as_missing(tmp_path: Path) -> None:
    command = [*COMPARE, "--rows=3000", "--runs=1", "--skip=pgloader"]
    output = subprocess.run(
        [*command, f"--folder={tmp_path}"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout

    measured, ratios, cores, goals = tables_in(output)
    assert measured[0] == COLUMNS
    rows = {line[0]: line[-1] for line in measured if "not installed" not in line}
    assert {"curl | psql", "loader", "the limit"} <= rows.keys()
    assert {line[0] for line in measured[2:]} == {"curl | psql", "loader", "the limit", "ADBC", "DuckDB"}
    assert [line[0] for line in ratios[2:]] == list(rows)[2:]
    assert [line[0] for line in cores[2:]] == list(rows)[2:]
    assert goals[0] == ["goal", "at most", "measured", "holds"]

    runs = json.loads((tmp_path / "results.json").read_bytes())["contenders, wal_level=minimal"]["runs"]
    assert [run["label"] for run in runs] == list(rows)[2:]
    for run in runs:
        assert run["rows"] == 3000
        assert rows[run["label"]] == "3,000"
        assert min(run["wall_seconds"], run["client_peak_bytes"], run["wal_bytes"]) > 0

    picture = tmp_path / "performance.svg"
    plot = [sys.executable, "-m", "benchmarks.reports.plot", str(tmp_path / "results.json"), str(picture)]
    subprocess.run(plot, cwd=ROOT, check=True)
    texts = {element.text for element in ElementTree.parse(picture).iter() if element.text}
    assert {"curl | psql", "loader", "the limit", "wall s"} <= texts


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


@pytest.mark.long
def test_the_benchmark_of_the_service_shows_each_figure_and_goal(tmp_path: Path) -> None:
    command = [*COMPARE, "--service", "--rows=400000", "--runs=1", "--get-seconds=1"]
    output = subprocess.run(
        [*command, f"--folder={tmp_path}"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout

    goals = output.partition("| goal |")[2]
    for measured in ("GET", "first message", "last COPY ended", "submit 1,000", "memory", "service ÷ CLI"):
        assert measured in goals
    (run,) = json.loads((tmp_path / "results.json").read_bytes())["service"]["runs"]
    assert len(run["requests"]["gets"]) == 50
    assert 0 < run["cancel"]["stop_seconds"] <= run["cancel"]["cancelled_seconds"]
    assert len(run["cli"]) == len(run["service"]) > 0


@pytest.mark.long
def test_the_benchmarks_of_scaling_startup_and_networks_show_each_figure(tmp_path: Path) -> None:
    command = [*COMPARE, "--scaling", "0.01", "--startup", "--network", "--rows=20000"]
    output = subprocess.run(
        [*command, "--runs=1", f"--folder={tmp_path}"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    results = json.loads((tmp_path / "results.json").read_bytes())

    loading, ending, scaling_goals, model, *_ = tables_in(output)
    assert (loading[2][0], ending[2][0], len(scaling_goals)) == ("0.01 GB", "0.01 GB", 12)
    assert [line[0] for line in model][::2] == ["290 GB on", "this machine", "16 cores, NVMe, 12 workers"]
    (scaled,) = results["scaling"]["runs"]
    assert scaled["resume"]["fetched_bytes"] >= scaled["resume"]["missing_bytes"] > 0
    assert scaled["roll_back"]["staged_bytes"] > 0

    (start,) = results["startup"]["runs"]
    assert sum(start["phase_seconds"].values()) == pytest.approx(start["wall_seconds"], abs=0.5)
    window = [each for each in results["network"]["runs"] if each["profile"] == "512 KiB of send buffer"]
    assert [each["client"] for each in window] == ["curl, one stream", "loader", "loader, 8 workers"]
    assert all(each["share"] < 1.1 for each in window)  # nothing is faster than the link


def test_the_file_server_repeats_the_rows_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "trips.csv").write_bytes(b"a,b\n1,2\n3,4\n")
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "file_server.py"), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        url = server.stdout.readline().strip() if server.stdout else ""
        whole = httpx.get(f"{url}/trips.csv?times=3")
        part = httpx.get(f"{url}/trips.csv?times=3", headers={"Range": "bytes=10-21"})
        sent = httpx.get(f"{url}/sent")
        server.terminate()
    assert whole.content == b"a,b\n" + 3 * b"1,2\n3,4\n"
    assert part.content == whole.content[10:22]
    assert part.headers["Content-Range"] == f"bytes 10-21/{len(whole.content)}"
    assert sent.text == str(len(whole.content) + 12)
