"""Progress is honest: rates of the last seconds, nothing invented, never 100 % before the commit."""

from __future__ import annotations

from loader.pipeline.progress import Meter


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_invented_before_a_second_has_been_measured() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.start(1000, 0, 0, 0)
    meter.enter("loading")
    meter.add(500, 5, 0)
    clock.now = 0.5
    progress = meter.message().progress
    assert (progress.bytes_per_second, progress.rows_per_second, progress.eta_seconds) == (None, None, None)
    assert progress.percent == 50.0


def test_a_second_is_enough_for_a_rate_and_an_eta() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.start(1000, 0, 0, 0)
    meter.enter("loading")
    meter.add(500, 5, 0)
    clock.now = 0.99
    assert meter.message().progress.bytes_per_second is None
    clock.now = 1.0
    progress = meter.message().progress
    assert (progress.bytes_per_second, progress.rows_per_second, progress.eta_seconds) == (500.0, 5.0, 1.0)


def test_rate_and_eta_are_of_the_last_ten_seconds() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.start(10_000, 0, 0, 0)
    meter.enter("loading")
    for second in range(1, 21):
        clock.now = float(second)
        meter.add(100 if second <= 10 else 200, 1, 0)
        meter.message()
    progress = meter.message().progress
    assert progress.bytes_per_second == 200.0
    assert progress.eta_seconds == (10_000 - 3000) / 200


def test_a_stall_shows_as_a_rate_of_nothing_and_no_eta() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.start(1000, 0, 0, 0)
    meter.enter("loading")
    meter.add(500, 5, 0)
    for second in range(1, 30):
        clock.now = float(second)
        meter.message()
    progress = meter.message().progress
    assert (progress.bytes_per_second, progress.eta_seconds) == (0.0, None)


def test_percent_is_never_100_before_the_commit() -> None:
    meter = Meter(Clock())
    meter.start(1000, 0, 0, 0)
    meter.add(1000, 10, 0)
    for phase in ("loading", "publishing"):
        meter.enter(phase)
        percent = meter.message().progress.percent
        assert percent is not None
        assert percent < 100


def test_while_indexes_are_built_percent_is_how_much_of_the_staging_has_them() -> None:
    meter = Meter(Clock())
    meter.start(1000, 0, 0, 0)
    meter.enter("loading")
    meter.add(1000, 10, 0)
    for done, percent in ((0, 0.0), (150, 37.5), (400, 99.9)):
        meter.indexed(done, 400)
        message = meter.message()
        assert (message.phase, message.progress.percent, message.progress.bytes_done) == (
            "indexing",
            percent,
            1000,
        )
        assert (message.progress.bytes_per_second, message.progress.eta_seconds) == (None, None)


def test_an_unknown_size_gives_neither_percent_nor_eta() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.start(None, 0, 0, 0)
    meter.enter("loading")
    clock.now = 2.0
    meter.add(1000, 10, 1)
    progress = meter.message().progress
    assert (progress.bytes_total, progress.percent, progress.eta_seconds) == (None, None, None)
    assert (progress.rows_loaded, progress.rows_rejected, progress.bytes_per_second) == (10, 1, 500.0)


def test_what_earlier_attempts_committed_counts_as_done_but_not_as_speed() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.start(1000, 600, 6, 0)
    meter.enter("loading")
    clock.now = 2.0
    progress = meter.message().progress
    assert (progress.percent, progress.rows_loaded, progress.bytes_per_second) == (60.0, 6, 0.0)
