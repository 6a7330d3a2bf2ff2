"""When a worker commits its part: by size and by time. Pure, except for the clock.

The largest open part is due when the open parts have reached their size limit on average; the oldest, when they have reached
their age limit on average. A crash costs what the open parts hold. With this rule the workers commit one after the other,
whenever they started.

With an age limit of max(a, t / b) seconds at the time t, w workers commit about (w + 1) / 2 * (b + b * ln(t / (a * b)))
parts within t seconds: with four workers 76 in an hour, 115 in four hours, 166 in a day. By size there are at most
_MAX_PARTS_BY_SIZE in a file of known length. tests/loader/pipeline/test_commit_schedule.py checks these figures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from loader.limits import DEFAULT_LIMITS, Limits

# Planning and locking work well with 128 parts. The other half of them is for parts that are committed by time.
_MAX_PARTS_BY_SIZE = 64
# Of the time spent so far. A crash may cost a tenth of it: the rest is for the block that is being sent when a part is due,
# and for the commit.
_PART_TIME_SHARE = 1 / 12


def expected_parts(file_bytes: int | None, workers: int, limits: Limits) -> int:
    """Estimate how many parts a file gets on a fast machine; `file_bytes` None: not announced."""
    if file_bytes is not None and file_bytes < limits.one_part_bytes:
        return 1
    return max(workers, min((file_bytes or 0) // limits.min_part_bytes, _MAX_PARTS_BY_SIZE))


class _OpenPart(msgspec.Struct):
    started: float
    data_bytes: int = 0
    source_bytes: int = 0


class CommitSchedule:
    """The parts of one attempt's workers. All methods may be called from any thread."""

    def __init__(
        self,
        file_bytes: int | None,
        clock: Callable[[], float] = time.monotonic,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """`file_bytes`: size of the file as transferred; None: not announced."""
        self._file_bytes = file_bytes or 0
        self._limits = limits
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._parts: dict[int, _OpenPart | None] = {}  # by worker; None while it is committed
        self._source_bytes = 0

    def begin(self, worker: int) -> None:
        """Open a part for a worker that has none."""
        with self._lock:
            self._parts[worker] = _OpenPart(self._clock())

    def add(self, worker: int, data_bytes: int, source_bytes: int) -> None:
        """Count a block in the worker's part: its data bytes, and its bytes of the source as transferred."""
        with self._lock:
            part = self._parts[worker]
            if part is not None:
                part.data_bytes += data_bytes
                part.source_bytes += source_bytes
            self._source_bytes += source_bytes

    def is_due(self, worker: int) -> bool:
        """Return whether the worker should commit its part now."""
        with self._lock:
            return self._is_next(self._age, worker) or self._is_next(self._size, worker)

    def end(self, worker: int) -> None:
        """Note that the worker commits its part."""
        with self._lock:
            self._parts[worker] = None

    def _is_next(self, measure: Callable[[_OpenPart], float], worker: int) -> bool:
        """Whether the parts have reached the limit on average and this worker's has the most.

        Also true when this part has reached twice the limit: then the worker with the most is stuck.
        """
        shares = {key: 0.0 if part is None else measure(part) for key, part in self._parts.items()}
        own = shares[worker]
        return own >= 2 or (own >= max(shares.values()) and sum(shares.values()) >= len(shares))

    def _age(self, part: _OpenPart) -> float:
        """Return the age of a part as a share of its limit."""
        now = self._clock()
        return (now - part.started) / max(
            self._limits.min_part_seconds, (now - self._started) * _PART_TIME_SHARE
        )

    def _size(self, part: _OpenPart) -> float:
        """Return the size of a part as a share of its limit."""
        max_source_bytes = max(self._file_bytes, self._source_bytes, 1) / _MAX_PARTS_BY_SIZE
        return min(part.data_bytes / self._limits.min_part_bytes, part.source_bytes / max_source_bytes)
