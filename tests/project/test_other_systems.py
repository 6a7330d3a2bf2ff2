"""What a Mac lacks is not needed: with the names of Linux taken away, everything is imported and a file is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.http_server import Fault, HttpServer
from tests.support.live_service import LiveService
from tests.support.loader_process import row_count
from tests.support.paths import PROGRAMS

pytestmark = pytest.mark.slow

# With its default number of workers, the loader asks the system for its cores.
WITHOUT_LINUX = {"PYTHONPATH": str(PROGRAMS / "without_linux"), "IMPORTER_WORKERS": ""}
IMPORT_ALL = """
import importlib, os, pkgutil, importer, loader
assert not hasattr(os, "pidfd_open")
for package in (importer, loader):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def test_each_module_is_imported_without_the_names_of_linux() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        env={**os.environ, **WITHOUT_LINUX},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_loads_and_cancels_without_the_names_of_linux(
    tmp_path: Path, database_url: str, sample: bytes
) -> None:
    with HttpServer(sample) as source, LiveService(tmp_path, database_url, WITHOUT_LINUX) as service:
        submitted = service.submit(source.url)
        assert service.until_state(submitted["id"], "succeeded")["receipt"]["rows_rejected"] == 0
        assert row_count(database_url) == sample.count(b"\n") - 1
        source.rule = lambda _: Fault(before="stall")
        stalled = service.submit(source.url, force=True)
        service.until_phase(stalled["id"], "probing")
        service.client.post(stalled["links"]["cancel"])
        service.until_state(stalled["id"], "cancelled")
