"""Draws the contenders from results.json as SVG: medians as bars, minimum and maximum as a line across their ends."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec

from benchmarks.reports.comparison import LOADER
from benchmarks.run import CLIENT_CPU_PER_GB, DATABASE_CPU, MEMORY, WALL, Metric, Run

BENCHMARK = "contenders, wal_level=minimal"
METRICS = (WALL, DATABASE_CPU, CLIENT_CPU_PER_GB, MEMORY)

# In pixels.
LABEL_WIDTH, BAR_WIDTH, VALUE_WIDTH = 110, 140, 60
TITLE_HEIGHT, ROW_HEIGHT, BAR_HEIGHT, MARGIN = 50, 26, 16, 10
# A bar more than this times as long as the next is cut off, so that the others stay legible.
CUT_RATIO = 3
OURS, OTHERS = "#1a7f5a", "#8a94a6"


class _Benchmark(msgspec.Struct):
    conditions: dict[str, str]
    runs: list[Run]


def draw(runs: Sequence[Run], conditions: dict[str, str]) -> str:
    """Return the SVG: one panel per metric, one bar per contender."""
    labels = list(dict.fromkeys(each.label for each in runs))
    width = MARGIN + LABEL_WIDTH + len(METRICS) * (BAR_WIDTH + VALUE_WIDTH)
    height = TITLE_HEIGHT + len(labels) * ROW_HEIGHT + MARGIN
    title = f"{runs[0].rows:,} rows, {runs[0].source_bytes / 1e9:.2f} GB; {conditions['machine']}; {conditions['date']}"
    shapes = [_text(MARGIN, 16, title)]
    shapes += [_text(MARGIN, _middle(row) + 4, label) for row, label in enumerate(labels)]
    for column, metric in enumerate(METRICS):
        left = MARGIN + LABEL_WIDTH + column * (BAR_WIDTH + VALUE_WIDTH)
        shapes.append(_text(left, TITLE_HEIGHT - 8, metric.title))
        shapes += _bars(left, labels, metric, runs)
    # a white ground, legible on pages of any colour
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def _bars(left: float, labels: Sequence[str], metric: Metric, runs: Sequence[Run]) -> list[str]:
    values = [[metric.of(each) for each in runs if each.label == label] for label in labels]
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
                f"{middle:,.{metric.digits}f}",
            ),
        ]
    return shapes


def _spread(left: float, lengths: Sequence[float], middle: float) -> str:
    """Return a line from the minimum to the maximum; for a bar that is cut off, the cut."""
    if max(lengths) > BAR_WIDTH:
        foot, head = left + BAR_WIDTH - 16, left + BAR_WIDTH - 8
        return f'<line x1="{foot}" x2="{head}" y1="{middle + 10}" y2="{middle - 10}" stroke="white" stroke-width="4"/>'
    start, end = left + min(lengths), left + max(lengths)
    return f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" stroke="black"/>'


def _middle(row: int) -> float:
    return TITLE_HEIGHT + (row + 0.5) * ROW_HEIGHT


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def main() -> None:
    """Draw the contenders of a results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path, help="the SVG to be written")
    options = parser.parse_args()
    benchmarks = msgspec.json.decode(options.results.read_bytes(), type=dict[str, msgspec.Raw])
    benchmark = msgspec.json.decode(benchmarks[BENCHMARK], type=_Benchmark)
    options.picture.write_text(draw(benchmark.runs, benchmark.conditions))


if __name__ == "__main__":
    main()
