"""The progress as lines: one at each phase, and one every ten seconds."""

from __future__ import annotations

import pytest

from loader.cli.display import LineDisplay
from loader.contract import Phase, Progress, ProgressMessage, Started


def progress(phase: Phase, bytes_done: int = 0, bytes_total: int | None = None) -> ProgressMessage:
    percent = None if bytes_total is None else 100.0 * bytes_done / bytes_total
    return ProgressMessage(phase, Progress(bytes_done, bytes_total, percent, bytes_done, 0, None, None, None))


def test_there_is_a_line_per_phase_and_per_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    display = LineDisplay(lambda: now)
    display.show(Started(1, "0"))
    for second in range(60):
        now = float(second)
        display.show(progress("probing") if second < 5 else progress("loading", second, 100))
    display.show(progress("rolling_back", 59, 100))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split(" ", 2)[2] for line in shown.err.splitlines()] == [  # after date and time
        "probing",
        "loading 5.0% 5 B of 100 B · 5 rows",
        "loading 15.0% 15 B of 100 B · 15 rows",
        "loading 25.0% 25 B of 100 B · 25 rows",
        "loading 35.0% 35 B of 100 B · 35 rows",
        "loading 45.0% 45 B of 100 B · 45 rows",
        "loading 55.0% 55 B of 100 B · 55 rows",
        "rolling back 59.0% 59 B of 100 B · 59 rows",
    ]
