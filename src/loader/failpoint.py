"""Where a test can make a process die, break, hang or be told to stop: numbered steps that nothing may be lost at.

`LOADER_FAILPOINT=crash@7` does it when the process reaches a step for the 7th time: `crash` is SIGKILL, `error` an exception
that nobody expects, `hang` a step that never ends, and the name of any other signal sends that. Unset, a step is a call
of an empty function.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable


def armed_by(variable: str) -> Callable[[], None]:
    """Return what a step calls, which does as a variable of the environment says."""
    specification = os.environ.get(variable)
    return _pass if specification is None else _armed(specification)


def _armed(specification: str) -> Callable[[], None]:
    what, _, number = specification.partition("@")
    passes = itertools.count(1)  # `next` on it is one step of the interpreter: no two threads get one number

    def hit_armed() -> None:
        if next(passes) == int(number):
            step = traceback.extract_stack(limit=2)[0]
            told = f"failpoint {specification} in {step.name}, {step.filename}:{step.lineno}\n"
            os.write(sys.stderr.fileno(), told.encode())
            _do(what)

    return hit_armed


def _do(what: str) -> None:
    match what:
        case "error":
            raise RuntimeError("a failpoint's error")
        case "hang":
            threading.Event().wait()
        case _:
            os.kill(os.getpid(), signal.SIGKILL if what == "crash" else signal.Signals[what])


def _pass() -> None:
    """Do nothing."""


hit = armed_by("LOADER_FAILPOINT")
