"""The small loader with a failpoint, in the first process of one command. Its stderr is a file, which marks that it ran.

Arguments: the command (run, drop), the failpoint, the file; then those of the loader.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

command, specification, file = sys.argv[1:4]
arguments = sys.argv[4:]
if arguments[0] == command and not Path(file).exists():
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 2)
    limits = '{"commit_seconds": 2, "rollback_step_seconds": 2, "abort_seconds": 2}'
    os.environ |= {"LOADER_FAILPOINT": specification, "SMALL_LOADER_LIMITS": limits}
os.execv(sys.executable, [sys.executable, str(Path(__file__).with_name("small_loader.py")), *arguments])
