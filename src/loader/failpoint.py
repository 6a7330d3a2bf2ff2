"""Where a test can make a run die, stop or be told to: numbered steps, at each of which nothing may be lost.

`LOADER_FAILPOINT=SIGKILL@7` sends that signal to the process when it reaches a step for the 7th time. Unset, a step is
a call of an empty function.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable


def _armed(specification: str) -> Callable[[], None]:
    name, _, number = specification.partition("@")
    passes = itertools.count(1)  # `next` on it is one step of the interpreter: no two threads get one number

    def reach_armed() -> None:
        if next(passes) == int(number):
            os.write(sys.stderr.fileno(), f"failpoint {specification}\n".encode())
            os.kill(os.getpid(), signal.Signals[name])

    return reach_armed


def _unarmed() -> None:
    """Do nothing."""


_SPECIFICATION = os.environ.get("LOADER_FAILPOINT")
reach: Callable[[], None] = _unarmed if _SPECIFICATION is None else _armed(_SPECIFICATION)
