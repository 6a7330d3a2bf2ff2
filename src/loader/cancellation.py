"""How a running import is told to stop, and what must not be stopped: signals, a supervisor's end, the commit point.

Facts the design rests on. A Python signal handler runs in the main thread, between two bytecodes, so the main thread
only waits, and all that can block (names, sockets, locks, compilation) runs in daemon threads that need not end. A
handler that took a lock could find it held by the code it interrupts: ours do nothing, and the signal's number comes
by `signal.set_wakeup_fd` to a pipe that the main thread reads.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import wait
from types import FrameType, TracebackType
from typing import Literal, TypeVar

from loader.threads import run_in_daemon_thread

R = TypeVar("R")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# How late a waiting thread may notice a request: far under the half second that stopping may take.
POLL_SECONDS = 0.05
# The same for a thread that waits for bytes of the source, once that is closed: a person's "at once", and nothing of a CPU.
POLL_INTERVAL_SECONDS = 0.1
# How long who is to stop waits for the answer to a commit. A lost connection is noticed after 30 s (connection.py); what has
# not answered by then hangs, and the ledger has to be asked.
_COMMIT_SECONDS = 60.0


class StopReason(enum.Enum):
    """Why the import is to stop; the first one stays."""

    TERMINATED = "SIGTERM"  # roll back
    INTERRUPTED = "SIGINT"  # roll back
    SUSPENDED = "SIGHUP"  # or the supervisor is gone: keep what is committed


class SourceClosed(Exception):  # noqa: N818 - the caller asked for it: not an error
    """The source was closed while this waited for its bytes."""


class Stopped(Exception):  # noqa: N818 - not an error: it was asked for
    """Raised wherever work notices that it is to stop."""


class Interrupt:
    """One import's request to stop, seen from every thread."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._committing = False
        self._requested_at = 0.0  # by time.monotonic(), once there is a reason
        self._lock = threading.Lock()
        self._aborts: list[Callable[[], None]] = []
        self.reason: StopReason | None = None
        self.commit_begun = False  # so that the ledger alone knows whether the import is published

    @contextlib.contextmanager
    def aborting(self, abort: Callable[[], None]) -> Generator[None]:
        """Have `abort` called, from another thread, when the work within is to stop."""
        with self._lock:
            self.check()
            self._aborts.append(abort)
        try:
            yield
        finally:
            with self._lock:
                self._aborts.remove(abort)

    def abort(self) -> None:
        """Abort what waits, if a request is effective; return when all of it has been told."""
        with self._lock:
            effective = self._is_effective()
            threads = [threading.Thread(target=each, daemon=True) for each in self._aborts if effective]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def request(self, reason: StopReason) -> None:
        """Ask to stop. Once the commit has begun its answer is waited for."""
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
            self._committing = self.commit_begun = True

    def end_commit(self) -> None:
        """Leave the commit point: the answer has come, or the connection is lost."""
        with self._lock:
            self._committing = False

    @property
    def is_effective(self) -> bool:
        """Whether work is to be aborted now."""
        with self._lock:
            return self._is_effective()

    def _is_effective(self) -> bool:
        if self._committing and time.monotonic() - self._requested_at < _COMMIT_SECONDS:
            return False
        return self.reason is not None

    def call(self, function: Callable[[], R], grace_seconds: float = 0.0) -> R:
        """Return what `function` returns. It runs in a thread of its own, left behind when it does not stop in time."""
        answer = run_in_daemon_thread(function)
        deadline: float | None = None
        while not wait([answer], POLL_SECONDS).done:
            if self.is_effective:
                deadline = deadline or time.monotonic() + grace_seconds
                if time.monotonic() >= deadline:
                    raise Stopped
        return answer.result()


class Watch:
    """The main thread's wait: for the end of the work, a signal, or the end of stdin. A context manager.

    Signals that are blocked outside of it are let through within: none that comes too early or too late is lost or kills.
    """

    def __init__(
        self, interrupt: Interrupt, *, on_sigterm: Literal["roll_back", "suspend"], watch_stdin: bool
    ) -> None:
        terminated = StopReason.TERMINATED if on_sigterm == "roll_back" else StopReason.SUSPENDED
        self._reasons = {
            signal.SIGTERM: terminated,
            signal.SIGINT: StopReason.INTERRUPTED,
            signal.SIGHUP: StopReason.SUSPENDED,
        }
        self._interrupt = interrupt
        self._stdin = [0] if watch_stdin else []
        self._reader, self._writer = os.pipe()

    def __enter__(self) -> Watch:
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        for number in ignored(signal.SIGHUP, signal.SIGINT):
            del self._reasons[number]
        self._former_wakeup = signal.set_wakeup_fd(self._writer)
        self._former_handlers = {number: signal.signal(number, _nothing) for number in self._reasons}
        self._former_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._former_mask)
        for number, handler in self._former_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_wakeup)
        os.close(self._reader)
        os.close(self._writer)

    def wake(self) -> None:
        """Make a `wait` in the main thread return, from any thread."""
        os.write(self._writer, b"\0")

    def wait(self, timeout_seconds: float | None) -> None:
        """Wait for `wake`, the time, or a request to stop, which is passed on."""
        readable, _, _ = select.select([self._reader, *self._stdin], [], [], timeout_seconds)
        if self._reader in readable:
            for number in os.read(self._reader, 64):
                if number != 0:
                    self._interrupt.request(self._reasons[signal.Signals(number)])
        if 0 in readable and not os.read(0, 4096):
            self._stdin = []
            self._interrupt.request(StopReason.SUSPENDED)


def ignored(*numbers: signal.Signals) -> list[signal.Signals]:
    """Return which of these signals the process has inherited as ignored: by nohup, or as a shell's background job."""
    return [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Be there, so that the signal does not kill: its number comes through the pipe."""
