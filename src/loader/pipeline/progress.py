"""Where an import stands, in numbers that are true: counted by the workers, read by a thread that tells others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from loader.contract import Message, Phase, Progress, ProgressMessage

# Rates are over this window: short enough to show a stall, long enough not to jump with each block.
_WINDOW_SECONDS = 10.0
# A rate over less than this is noise, and an ETA from it an invention.
_MIN_WINDOW_SECONDS = 1.0
# How often a person or a supervisor is told.
TICK_SECONDS = 0.5
# Not 100 before the commit, however the bytes are rounded.
_MAX_PERCENT = 99.9


class Meter:
    """The counters of one attempt; all methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phase: Phase = "probing"
        self._bytes_total: int | None = None
        self._bytes = self._rows = self._rejects = 0
        self._step_percent = 0.0  # of a phase that does not count the file's bytes
        self.phase_changed = threading.Event()
        self._samples: deque[tuple[float, int, int]] = deque()

    def start(self, bytes_total: int | None, bytes_done: int, rows_loaded: int, rows_rejected: int) -> None:
        """Begin loading, with what earlier attempts have committed."""
        with self._lock:
            self._bytes_total = bytes_total
            self._bytes, self._rows, self._rejects = bytes_done, rows_loaded, rows_rejected
            self._samples = deque([(self._clock(), bytes_done, rows_loaded)])

    def add(self, source_bytes: int, rows: int, rejects: int) -> None:
        """Count a block that was sent to the server."""
        with self._lock:
            self._bytes += source_bytes
            self._rows += rows
            self._rejects += rejects

    @property
    def rows_sent(self) -> int:
        """Rows loaded so far, those of earlier attempts included."""
        with self._lock:
            return self._rows

    def removed(self, parts: int, parts_total: int) -> None:
        """Count down: so many parts of the staging are gone."""
        with self._lock:
            self._phase = "rolling_back"
            self._step_percent = 100.0 * parts / parts_total if parts_total else 100.0
        if parts == 0:
            self.phase_changed.set()

    def indexed(self, done_bytes: int, total_bytes: int) -> None:
        """Say that indexes are built, and of how much of the staging's bytes they are."""
        with self._lock:
            self._phase = "indexing"
            self._step_percent = min(100.0 * done_bytes / total_bytes if total_bytes else 100.0, _MAX_PERCENT)
        if done_bytes == 0:
            self.phase_changed.set()

    def enter(self, phase: Phase) -> None:
        """Say what the import does from now on."""
        with self._lock:
            self._phase = phase
        self.phase_changed.set()

    def message(self) -> ProgressMessage:
        """Return where the import stands now."""
        with self._lock:
            return ProgressMessage(self._phase, self._measure())

    def _measure(self) -> Progress:
        now = self._clock()
        if self._phase == "loading":
            self._samples.append((now, self._bytes, self._rows))
            while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW_SECONDS:
                self._samples.popleft()
        bytes_rate, rows_rate = self._rates()
        total = self._bytes_total
        percent = min(100.0 * self._bytes / total, _MAX_PERCENT) if total else None
        if self._phase in ("indexing", "rolling_back"):
            percent = self._step_percent
        left = None if total is None else max(total - self._bytes, 0)
        return Progress(
            bytes_done=self._bytes,
            bytes_total=total,
            percent=None if percent is None else round(percent, 1),
            rows_loaded=self._rows,
            rows_rejected=self._rejects,
            bytes_per_second=bytes_rate,
            rows_per_second=rows_rate,
            eta_seconds=None if left is None or not bytes_rate else round(left / bytes_rate, 1),
        )

    def _rates(self) -> tuple[float | None, float | None]:
        if self._phase != "loading" or not self._samples:
            return None, None
        (first, first_bytes, first_rows), (last, last_bytes, last_rows) = self._samples[0], self._samples[-1]
        if last - first < _MIN_WINDOW_SECONDS:
            return None, None
        seconds = last - first
        return round((last_bytes - first_bytes) / seconds, 1), round((last_rows - first_rows) / seconds, 1)


class Ticker:
    """Tells a listener of the meter at each tick and each change of phase.

    It has a thread of its own. The listener must not block.
    """

    def __init__(self, meter: Meter, listener: Callable[[Message], None]) -> None:
        self._meter = meter
        self._listener = listener
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._listener(self._meter.message())
            self._meter.phase_changed.wait(TICK_SECONDS)
            self._meter.phase_changed.clear()

    def end(self) -> None:
        """Tell no more; the listener is not called after this returns."""
        self._ended.set()
        self._meter.phase_changed.set()
        self._thread.join()
