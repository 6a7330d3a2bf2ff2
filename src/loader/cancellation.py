"""How a running import stops: the request to stop, the commit point, and calls that can be left behind.

All that can block (names, sockets, locks, the compiler) runs in daemon threads, which the end of the process need not wait
for.
"""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from typing import TypeVar

from loader.limits import DEFAULT_LIMITS

R = TypeVar("R")

# How late a waiting thread may notice a request to stop: far less than the half second that stopping may take.
POLL_INTERVAL_SECONDS = 0.05


class StopReason(enum.Enum):
    """Why the import is to stop; the first one stays."""

    TERMINATED = "SIGTERM"  # roll back
    INTERRUPTED = "SIGINT"  # roll back
    SUSPENDED = "SIGHUP"  # or the supervisor is gone: keep what is committed


class SourceClosed(Exception):
    """The source was closed while this waited for its bytes."""


class Stopped(Exception):
    """Raised wherever work notices a request to stop."""


def raise_if_closed(closed: threading.Event) -> None:
    """Raise SourceClosed when the event of a source is set."""
    if closed.is_set():
        raise SourceClosed


def run_in_daemon_thread(function: Callable[[], R]) -> Future[R]:
    """Call `function` in a daemon thread; return the future of its result or exception."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # `Future.result` raises it in the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name=f"daemon of {threading.current_thread().name}", daemon=True).start()
    return future


def call_in_daemon_thread(function: Callable[[], R], check: Callable[[], None]) -> R:
    """Return what `function` returns, called in a daemon thread, or raise what it raises.

    `check` is called before, and every POLL_INTERVAL_SECONDS meanwhile. If it raises, the thread is left behind.
    """
    check()
    future = run_in_daemon_thread(function)
    while not wait([future], POLL_INTERVAL_SECONDS).done:
        check()
    return future.result()


class Interrupt:
    """One import's request to stop, seen from every thread."""

    def __init__(self, commit_seconds: float = DEFAULT_LIMITS.commit_seconds) -> None:
        self._commit_seconds = commit_seconds
        self._requested = threading.Event()
        self._is_committing = False
        self._requested_at = 0.0  # by time.monotonic(), once there is a reason
        self._lock = threading.Lock()
        self._aborts: list[Callable[[], None]] = []
        self.reason: StopReason | None = None
        # From then on only the ledger knows whether the import is published.
        self.has_started_commit = False

    @contextlib.contextmanager
    def aborting(self, abort: Callable[[], None]) -> Generator[None]:
        """Within `with`, have `abort` called from another thread when the work is to stop."""
        with self._lock:
            self.check()
            self._aborts.append(abort)
        try:
            yield
        finally:
            with self._lock:
                self._aborts.remove(abort)

    def abort(self) -> None:
        """If a request is effective, call all aborts in parallel, and return when all have returned."""
        with self._lock:
            effective = self._is_effective()
            threads = [threading.Thread(target=each, daemon=True) for each in self._aborts if effective]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def request(self, reason: StopReason) -> None:
        """Ask to stop. During a commit the request becomes effective at its end, or after `commit_seconds`."""
        with self._lock:
            if self.reason is None:
                self._requested_at = time.monotonic()
                self.reason = reason
                self._requested.set()

    def check(self) -> None:
        """Raise Stopped when asked to stop."""
        if self._requested.is_set():
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Wait that long; raise Stopped as soon as asked to stop."""
        if self._requested.wait(seconds):
            raise Stopped

    def begin_commit(self) -> None:
        """Enter the commit point; raise Stopped when asked to stop before it."""
        with self._lock:
            self.check()
            self._is_committing = self.has_started_commit = True

    def end_commit(self) -> None:
        """Leave the commit point: the response has come, or the connection is lost."""
        with self._lock:
            self._is_committing = False

    @property
    def is_effective(self) -> bool:
        """Whether work is to be aborted now."""
        with self._lock:
            return self._is_effective()

    def _is_effective(self) -> bool:
        if self._is_committing and time.monotonic() - self._requested_at < self._commit_seconds:
            return False
        return self.reason is not None

    def call(self, function: Callable[[], R], grace_seconds: float = 0.0) -> R:
        """Return what `function` returns; raise Stopped when it still runs `grace_seconds` after an effective request."""
        deadline: float | None = None

        def check() -> None:
            nonlocal deadline
            if self.is_effective:
                deadline = deadline or time.monotonic() + grace_seconds
                if time.monotonic() >= deadline:
                    raise Stopped

        return call_in_daemon_thread(function, check)
