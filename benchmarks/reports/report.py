"""Tables in Markdown for docs/performance.md, and results.json with every run."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from loader.pipeline.workers import usable_cores


class Goal(msgspec.Struct, frozen=True):
    """An upper limit, and what was measured."""

    what: str
    at_most: float
    measured: float
    unit: str = ""


def conditions(postgres_version: str, wal_level: str) -> dict[str, str]:
    """Return date, machine and versions of a measurement."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{len(usable_cores())} cores of {_processor()}, {memory_bytes / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "PostgreSQL": f"{postgres_version}, embedded, its default settings, wal_level={wal_level}",
        "Python": platform.python_version(),
        "curl": _first_line("curl", "--version", pattern=r"curl (\S+)"),
        "commit": _first_line("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
    }


def conditions_text(found: Mapping[str, str]) -> str:
    """Return the conditions as one paragraph."""
    return "; ".join(f"{name}: {value}" for name, value in found.items()) + "."


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column left-aligned, numbers right-aligned."""
    marks = ["---"] + ["--:"] * (len(columns) - 1)
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (columns, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], marks, *lines[1:]))


def goals_table(goals: Sequence[Goal]) -> str:
    """Return a Markdown table of the goals, and whether they hold."""
    return table(
        ["goal", "at most", "measured", "holds"],
        [
            [
                goal.what,
                f"{goal.at_most:.3g}{goal.unit}",
                f"{goal.measured:.3g}{goal.unit}",
                "yes" if goal.measured <= goal.at_most else "**no**",
            ]
            for goal in goals
        ],
    )


def spread(values: Sequence[float], digits: int) -> str:
    """Return median, minimum and maximum: 12.3 (12.1-12.9); one number if they are equal."""
    median, least, most = (
        f"{each:,.{digits}f}" for each in (statistics.median(values), min(values), max(values))
    )
    return median if least == most else f"{median} ({least}-{most})"


def save(path: Path, benchmark: str, found: Mapping[str, str], runs: Sequence[msgspec.Struct]) -> None:
    """Replace the runs of a benchmark in the results file."""
    benchmarks: dict[str, object] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    benchmarks[benchmark] = {"conditions": found, "runs": runs}
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(benchmarks)) + b"\n")
    unfinished.replace(path)


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _first_line(*command: str, pattern: str = "(.+)") -> str:
    if shutil.which(command[0]) is None:
        return "none"
    output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    found = re.match(pattern, output)
    return found[1] if found else "unknown"
