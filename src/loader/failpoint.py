"""Failpoints: numbered steps at which a test makes a process crash, fail, hang or get a signal.

`LOADER_FAILPOINT=crash@7` acts when the process reaches a failpoint for the 7th time: `crash` is SIGKILL, `error` an
unexpected exception, `hang` a step that never ends, and the name of a signal sends that signal. Without the variable, a
failpoint is a call of an empty function.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable


def failpoint_of(variable: str) -> Callable[[], None]:
    """Return the function for failpoints, which acts as an environment variable says."""
    specification = os.environ.get(variable)
    return _pass if specification is None else _parse(specification)


def _parse(specification: str) -> Callable[[], None]:
    what, _, number = specification.partition("@")
    hits = itertools.count(1)  # `next` on it is atomic: no two threads get the same number

    def hit_once() -> None:
        if next(hits) == int(number):
            step = traceback.extract_stack(limit=2)[0]
            message = f"failpoint {specification} in {step.name}, {step.filename}:{step.lineno}\n"
            os.write(sys.stderr.fileno(), message.encode())
            _do(what)

    return hit_once


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


hit = failpoint_of("LOADER_FAILPOINT")
