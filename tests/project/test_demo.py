"""`make demo` starts the service, imports a sample, queries the rows, and leaves no process running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.loader_process import wait_for
from tests.support.paths import ROOT

# Real processes, some seconds each.
pytestmark = pytest.mark.slow


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes with the folder in their command line."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:  # it has exited, or belongs to another user
            continue
        if any(str(folder) in word for word in line):
            found.append(process)
    return found


@pytest.mark.slow
def test_the_demo_shows_a_receipt_and_rows_and_leaves_no_process(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--rows", "20000", "--folder", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "postgresql://nowhere.invalid/none"},  # the demo ignores it
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "20,000 parsed - 0 rejected = 20,000 copied = 20,000 published" in shown.stdout
    answer = [line.split()[0] for line in shown.stdout.split("GROUP BY")[1].splitlines()[1:4]]
    assert answer == ["company", "Uber", "Lyft"]
    wait_for("all processes to end", lambda: not processes_of(tmp_path))
