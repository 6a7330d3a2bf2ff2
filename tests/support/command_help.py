"""The options that `--help` of a command prints."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache


@cache
def options_of(program: str, command: str) -> set[str]:
    """Return the options that `PROGRAM COMMAND --help` shows."""
    shown = subprocess.run(
        [sys.executable, "-m", program, command, "--help"], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"--[a-z-]+", shown.stdout))
