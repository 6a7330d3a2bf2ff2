"""Parts are committed by size and by time: what a crash costs, and how many parts an import gets."""

from __future__ import annotations

import pytest

from loader.pipeline.commit_schedule import CommitSchedule

GIB = 1 << 30
HOUR = 3600
# A worker has taken as much from the schedule when it is asked; the commit then takes as long.
COMMIT_SECONDS = 3.0


class Load:
    """Workers that load a file at one rate together, in steps of a second, by a clock that is set by hand."""

    def __init__(
        self, workers: int, file_bytes: int | None, bytes_per_second: float, growth: int = 1
    ) -> None:
        """`growth`: bytes of data in a byte of the file."""
        self.now = 0.0
        self.parts: list[int] = []  # bytes of data in each
        self.cost_seconds: list[float] = []  # of a crash, at the end of each second, and when that was
        self._schedule = CommitSchedule(file_bytes, lambda: self.now)
        self._workers = workers
        self._source_bytes = bytes_per_second / workers
        self._growth = growth
        self._began: dict[int, float] = {}
        self._committing: dict[int, float] = {}
        self._data: dict[int, int] = {}

    def run(self, seconds: int) -> Load:
        for _ in range(seconds):
            self.now += 1
            for worker in range(self._workers):
                self._step(worker)
            ages = [self.now - began for began in self._began.values()]
            self.cost_seconds.append(sum(ages) / self._workers)
        return self

    def _step(self, worker: int) -> None:
        if worker in self._committing:
            if self.now < self._committing[worker]:
                return
            del self._committing[worker], self._began[worker]
            self.parts.append(self._data.pop(worker))
        if worker not in self._began:
            self._schedule.begin(worker)
            self._began[worker], self._data[worker] = self.now, 0
        size = round(self._source_bytes * self._growth)
        self._schedule.add(worker, size, round(self._source_bytes))
        self._data[worker] += size
        if self._schedule.is_due(worker):
            self._schedule.end(worker)
            self._committing[worker] = self.now + COMMIT_SECONDS


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("bytes_per_second", [1_000_000, 20_000_000, 250_000_000])
def test_a_crash_costs_at_most_a_minute_or_a_tenth_of_the_time_spent(
    workers: int, bytes_per_second: float
) -> None:
    load = Load(workers, 290_000_000_000, bytes_per_second).run(3 * HOUR)
    for second, cost in enumerate(load.cost_seconds, 1):
        assert cost <= max(60, second / 10), second


@pytest.mark.parametrize(
    ("workers", "hours", "parts"),
    [(1, 24, 70), (2, 4, 75), (2, 24, 105), (4, 1, 80), (4, 4, 125), (4, 24, 175)],
)
def test_a_slow_import_has_parts_by_the_logarithm_of_its_time(workers: int, hours: int, parts: int) -> None:
    assert 0.7 * parts <= len(Load(workers, None, 100_000).run(hours * HOUR).parts) <= parts


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("growth", [1, 8])
@pytest.mark.parametrize("minutes", [5, 20, 60, 240])
def test_a_large_file_has_about_128_parts_whatever_the_speed_and_the_compression(
    workers: int, growth: int, minutes: int
) -> None:
    file_bytes = 290_000_000_000 // growth
    load = Load(workers, file_bytes, file_bytes / minutes / 60, growth).run(minutes * 60)
    assert len(load.parts) <= 128


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_file_of_a_gibibyte_a_worker_is_a_part_a_worker_on_a_fast_machine(workers: int) -> None:
    seconds = 20
    assert Load(workers, workers * GIB, workers * GIB / seconds).run(seconds - 1).parts == []
    assert len(Load(workers, 2 * workers * GIB, workers * GIB / seconds).run(2 * seconds).parts) >= 1


def test_workers_that_started_together_commit_one_after_the_other() -> None:
    now = 0.0
    schedule = CommitSchedule(None, lambda: now)
    for worker in range(4):
        now = float(worker)
        schedule.begin(worker)
    due: list[tuple[int, int]] = []
    for second in range(4, 200):
        now = float(second)
        for worker in range(4):
            if schedule.is_due(worker):
                due.append((worker, second))
                schedule.end(worker)
                schedule.begin(worker)
    assert [worker for worker, _ in due[:8]] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len({second for _, second in due}) == len(due)


def test_a_worker_that_is_stuck_does_not_keep_the_others_from_committing() -> None:
    now = 0.0
    schedule = CommitSchedule(None, lambda: now)
    schedule.begin(0)
    now = 100.0
    schedule.begin(1)
    now = 199.0
    assert not schedule.is_due(1)
    now = 200.0
    assert schedule.is_due(1)
    assert schedule.is_due(0)


def test_a_part_is_due_while_its_worker_waits_for_more() -> None:
    now = 0.0
    schedule = CommitSchedule(1000, lambda: now)
    schedule.begin(0)
    schedule.add(0, 10, 10)
    assert not schedule.is_due(0)
    now = 50.0
    assert schedule.is_due(0)
