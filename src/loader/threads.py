"""Work in a daemon thread, for calls that can't be interrupted: name look-ups, locks, the compiler."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

R = TypeVar("R")


def run_in_daemon_thread(function: Callable[[], R]) -> Future[R]:
    """Call `function` in a daemon thread; the future gets its result or exception. The process can end before the thread."""
    answer: Future[R] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:  # `Future.result` raises it in the thread that waits
            answer.set_exception(error)

    threading.Thread(target=run, name=f"daemon of {threading.current_thread().name}", daemon=True).start()
    return answer
