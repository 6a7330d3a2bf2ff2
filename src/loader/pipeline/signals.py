"""The main thread's wait for signals, the end of stdin, and the end of the work.

A Python signal handler runs in the main thread, between two bytecodes: the main thread only waits. A handler that took a
lock could find it held by the code that it interrupts: ours do nothing, and `signal.set_wakeup_fd` writes the signal's
number to a pipe that the main thread reads.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Literal

from loader.cancellation import Interrupt, StopReason

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class SignalWatch:
    """Turns signals and the end of stdin into requests to stop. A context manager, for the main thread.

    Signals that are blocked outside of it are unblocked within, so none is lost or kills before or after.
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

    def __enter__(self) -> SignalWatch:
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        for number in ignored(signal.SIGHUP, signal.SIGINT):
            del self._reasons[number]
        self._former_wakeup = signal.set_wakeup_fd(self._writer)
        self._former_handlers = {number: signal.signal(number, _ignore) for number in self._reasons}
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
        """Make `wait` return in the main thread. May be called from any thread."""
        os.write(self._writer, b"\0")

    def wait(self, timeout_seconds: float | None) -> None:
        """Wait for `wake`, the time limit, or a request to stop, which is passed on."""
        readable, _, _ = select.select([self._reader, *self._stdin], [], [], timeout_seconds)
        if self._reader in readable:
            for number in os.read(self._reader, 64):
                if number != 0:
                    self._interrupt.request(self._reasons[signal.Signals(number)])
        if 0 in readable and not os.read(0, 4096):
            self._stdin = []
            self._interrupt.request(StopReason.SUSPENDED)


def ignored(*numbers: signal.Signals) -> list[signal.Signals]:
    """Return which of these signals the process ignores since its start: under nohup, or as a shell's background job."""
    return [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Keep the signal from killing the process; its number comes through the pipe."""
