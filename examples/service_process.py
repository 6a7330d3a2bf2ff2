"""Runs `importer serve` as a child process, for the demo and the benchmarks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

IMPORTER = [sys.executable, "-m", "importer"]
# Far longer than it takes to suspend loaders and to stop the embedded server.
STOP_SECONDS = 60


class ServiceProcess(msgspec.Struct, frozen=True):
    """A service that accepts requests."""

    url: str
    process_id: int
    greeting: str  # the line that it prints at startup


@contextmanager
def serve_imports(data_folder: Path, environment: Mapping[str, str]) -> Generator[ServiceProcess]:
    """Run the service on a free port, until the context ends. Raises SystemExit with its log if it does not start."""
    log = data_folder.with_name(f"{data_folder.name}-service.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*IMPORTER, "serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(data_folder)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as service,
    ):
        try:
            greeting = service.stdout.readline() if service.stdout else ""
            url = re.search(r"http://[\d.:]+", greeting)
            if url is None:
                sys.exit(f"The service did not start:\n{greeting}{log.read_text()}")
            yield ServiceProcess(url[0], service.pid, greeting)
        finally:
            service.terminate()
            service.wait(STOP_SECONDS)
