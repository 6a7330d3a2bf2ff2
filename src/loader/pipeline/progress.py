"""The progress of an import: counted by the workers, reported by a thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from loader.contract import Message, Phase, Progress, ProgressMessage

# For rates: short enough to show a stall, long enough not to jump with each block.
_WINDOW_SECONDS = 10.0
# A rate over a shorter time is noise.
_MIN_WINDOW_SECONDS = 1.0
# Twice a second looks smooth; the cost is negligible.
_TICK_SECONDS = 0.5
# Less than 100 before the commit, however the bytes are rounded.
_MAX_PERCENT = 99.9


class Meter:
    """The counters of one attempt. All methods may be called from any thread."""

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
        """Start loading, with the counts that earlier attempts have committed."""
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
        """Report that so many parts of the staging are removed."""
        with self._lock:
            self._phase = "rolling_back"
            self._step_percent = 100.0 * parts / parts_total if parts_total else 100.0
        if parts == 0:
            self.phase_changed.set()

    def indexed(self, done_bytes: int, total_bytes: int) -> None:
        """Report how much of the staging is indexed."""
        with self._lock:
            self._phase = "indexing"
            self._step_percent = min(100.0 * done_bytes / total_bytes if total_bytes else 100.0, _MAX_PERCENT)
        if done_bytes == 0:
            self.phase_changed.set()

    def enter(self, phase: Phase) -> None:
        """Start a phase."""
        with self._lock:
            self._phase = phase
        self.phase_changed.set()

    def message(self) -> ProgressMessage:
        """Return the progress now."""
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
    """Sends the progress to a listener, at each tick and each change of phase, in a thread. The listener must not block."""

    def __init__(self, meter: Meter, listener: Callable[[Message], None]) -> None:
        self._meter = meter
        self._listener = listener
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._listener(self._meter.message())
            self._meter.phase_changed.wait(_TICK_SECONDS)
            self._meter.phase_changed.clear()

    def end(self) -> None:
        """Stop. The listener is not called after this returns."""
        self._ended.set()
        self._meter.phase_changed.set()
        self._thread.join()
