"""results.json as a picture: the contenders' medians as bars, least and most as a line across their ends. SVG by hand."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec

from benchmarks import run as trial
from benchmarks.reports.comparison import LOADER
from benchmarks.run import Measure, Trial

PART = "contenders, wal_level=minimal"
MEASURES = (trial.WALL, trial.DATABASE_CPU, trial.CLIENT_CPU_A_GB, trial.MEMORY)

# In pixels.
LABEL_WIDTH, BAR_WIDTH, VALUE_WIDTH = 110, 140, 60
TITLE_HEIGHT, ROW_HEIGHT, BAR_HEIGHT, MARGIN = 50, 26, 16, 10
# A bar so many times as long as the next is cut, so that the others can be told apart.
CUT_RATIO = 3
OURS, OTHERS = "#1a7f5a", "#8a94a6"


class _Part(msgspec.Struct):
    conditions: dict[str, str]
    trials: list[Trial]


def draw(trials: Sequence[Trial], conditions: dict[str, str]) -> str:
    """Return the picture: a panel a measure, a bar a contender."""
    labels = list(dict.fromkeys(each.label for each in trials))
    width = MARGIN + LABEL_WIDTH + len(MEASURES) * (BAR_WIDTH + VALUE_WIDTH)
    height = TITLE_HEIGHT + len(labels) * ROW_HEIGHT + MARGIN
    title = f"{trials[0].rows:,} rows, {trials[0].source_bytes / 1e9:.2f} GB; {conditions['machine']}; {conditions['date']}"
    shapes = [_text(MARGIN, 16, title)]
    shapes += [_text(MARGIN, _middle(row) + 4, label) for row, label in enumerate(labels)]
    for column, measure in enumerate(MEASURES):
        left = MARGIN + LABEL_WIDTH + column * (BAR_WIDTH + VALUE_WIDTH)
        shapes.append(_text(left, TITLE_HEIGHT - 8, measure.title))
        shapes += _bars(left, labels, measure, trials)
    # readable on pages of any colour
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def _bars(left: float, labels: Sequence[str], measure: Measure, trials: Sequence[Trial]) -> list[str]:
    values = [[measure.of(each) for each in trials if each.label == label] for label in labels]
    *_, second, longest = sorted(max(found) for found in values)
    scale = BAR_WIDTH / (second if longest > CUT_RATIO * second else longest)
    shapes: list[str] = []
    for row, (label, found) in enumerate(zip(labels, values, strict=True)):
        middle = statistics.median(found)
        colour = OURS if label == LOADER else OTHERS
        shapes += [
            f'<rect x="{left}" y="{_middle(row) - BAR_HEIGHT / 2}" width="{min(middle * scale, BAR_WIDTH):.1f}"'
            f' height="{BAR_HEIGHT}" fill="{colour}"/>',
            _spread(left, [value * scale for value in found], _middle(row)),
            _text(
                left + min(max(found) * scale, BAR_WIDTH) + 4,
                _middle(row) + 4,
                f"{middle:,.{measure.digits}f}",
            ),
        ]
    return shapes


def _spread(left: float, lengths: Sequence[float], middle: float) -> str:
    """Return a line from the least to the most; of a bar that is cut, a cut across it."""
    if max(lengths) > BAR_WIDTH:
        foot, head = left + BAR_WIDTH - 16, left + BAR_WIDTH - 8
        return f'<line x1="{foot}" x2="{head}" y1="{middle + 10}" y2="{middle - 10}" stroke="white" stroke-width="4"/>'
    least, most = left + min(lengths), left + max(lengths)
    return f'<line x1="{least:.1f}" x2="{most:.1f}" y1="{middle}" y2="{middle}" stroke="black"/>'


def _middle(row: int) -> float:
    return TITLE_HEIGHT + (row + 0.5) * ROW_HEIGHT


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def main() -> None:
    """Draw what a file of results has of the contenders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path, help="the SVG to be written")
    options = parser.parse_args()
    parts = msgspec.json.decode(options.results.read_bytes(), type=dict[str, msgspec.Raw])
    part = msgspec.json.decode(parts[PART], type=_Part)
    options.picture.write_text(draw(part.trials, part.conditions))


if __name__ == "__main__":
    main()
