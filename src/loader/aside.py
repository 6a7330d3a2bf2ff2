"""Work in a thread of its own, which can be left behind: name look-ups, locks and the compiler can't be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

R = TypeVar("R")


def begin(function: Callable[[], R]) -> Future[R]:
    """Return what will hold what `function` returns or raises. Its thread does not keep the process from ending."""
    answer: Future[R] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:  # it is raised where it is waited for
            answer.set_exception(error)

    threading.Thread(target=run, name=f"aside from {threading.current_thread().name}", daemon=True).start()
    return answer
