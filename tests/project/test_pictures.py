"""The terminal in the README: one frame of the bar, then the result, as a real pseudo-terminal receives them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from examples.pictures import COLUMNS, run_in_terminal, shown_lines


def test_the_picture_has_the_notes_one_frame_and_the_result() -> None:
    output = (
        "note\r\n\x1b[?25lprobing\r\x1b[2K"
        "loading \x1b[31m━\x1b[0m  10.0% 1 MB\r\x1b[2K"
        "loading \x1b[31m━━\x1b[0m  60.0% 6 MB\r\x1b[2K"
        "loading \x1b[31m━━━\x1b[0m  90.0% 9 MB\r\x1b[2K"
        "published \x1b[32m━━━\x1b[0m 100% 10 MB\r\n\x1b[?25hpublished  import 1\r\nrows  3\r\n"
    )

    assert shown_lines(output) == [
        "note",
        "loading \x1b[31m━━\x1b[0m  60.0% 6 MB",
        "published \x1b[32m━━━\x1b[0m 100% 10 MB",
        "published  import 1",
        "rows  3",
    ]


@pytest.mark.slow
def test_a_real_import_draws_a_bar_that_fits_into_the_picture(tmp_path: Path) -> None:
    sample = tmp_path / "trips.csv"
    environment = {**os.environ, "TERM": "xterm-256color", "IMPORTER_DATA_DIR": str(tmp_path / "data")}
    environment.pop("DATABASE_URL", None)
    loader = [sys.executable, "-m", "loader"]
    run_in_terminal([*loader, "sample", "--rows", "50000", str(sample)], environment)

    lines = shown_lines(run_in_terminal([*loader, "run", str(sample)], environment))

    assert any(line.startswith("published") and "━" in line for line in lines)
    assert any(line.startswith("rows ") and "50,000 published" in line for line in lines)
    assert max(map(len, lines)) <= COLUMNS + 60  # colours take no columns
