"""The contenders side by side: medians, ratios to `curl | psql` and to the limit, and the goals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.contenders.contenders import Absent
from benchmarks.reports.report import Goal, goals_table, table
from benchmarks.run import (
    CLIENT_CPU_PER_GB,
    CONTENDER_COLUMNS,
    CORE_COLUMNS,
    DATABASE_CPU,
    WAL_PER_STORED_BYTE,
    WALL,
    Metric,
    Run,
    median,
    runs_table,
)

LOADER = "loader"
PASSTHROUGH = "curl | psql"
LIMIT = "the limit"

PASSTHROUGH_WALL_LIMIT = 0.28
PASSTHROUGH_DATABASE_CPU_LIMIT = 0.50
# The loader is to be 1.8 times as fast as the fastest peer.
PEER_WALL_LIMIT = 1 / 1.8
LIMIT_WALL_LIMIT = 1.2
LIMIT_DATABASE_CPU_LIMIT = 1.05
CLIENT_CPU_LIMIT_SECONDS_PER_GB = 3.5
# WAL bytes per stored byte, by wal_level.
WAL_LIMITS = {"minimal": 0.01, "replica": 1.05}


def report(runs: Sequence[Run], wal_level: str, settings: Sequence[str], absent: Sequence[Absent]) -> str:
    """Return tables: medians, ratios, how the cores spent their time; the settings; and the goals."""
    labels = list(dict.fromkeys(each.label for each in runs))
    measured = runs_table(runs, CONTENDER_COLUMNS)
    width = len(CONTENDER_COLUMNS)
    missing = [f"| {each.name} | not installed |{' |' * (width - 1)}" for each in absent]
    shown = [*settings, *(f"{each.name}: {each.settings}" for each in absent)]
    return "\n\n".join(
        [
            "\n".join([measured, *missing]),
            _ratios(runs, labels),
            runs_table(runs, CORE_COLUMNS),
            "\n".join(f"- {line}" for line in shown),
            goals_table(_goals(runs, labels, wal_level)),
        ]
    )


def _ratios(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Return the ratio of each contender's medians to those of the passthrough and of the limit, if they were run."""
    columns = [
        (metric, base) for base in (PASSTHROUGH, LIMIT) if base in labels for metric in (WALL, DATABASE_CPU)
    ]
    return table(
        ["", *(f"{metric.title.split(' s')[0]} ÷ {base}" for metric, base in columns)],
        [
            [label, *(f"{_ratio(runs, metric, label, base):.2f}" for metric, base in columns)]
            for label in labels
        ],
    )


def _goals(runs: Sequence[Run], labels: Sequence[str], wal_level: str) -> list[Goal]:
    """Return the goals against the contenders that were run. Those for speed apply to wal_level=minimal only."""
    wal = median(runs, LOADER, WAL_PER_STORED_BYTE)
    goals = [Goal(f"loader: WAL ÷ stored, wal_level={wal_level}", WAL_LIMITS[wal_level], wal)]
    if wal_level != "minimal":
        return goals
    client_cpu = median(runs, LOADER, CLIENT_CPU_PER_GB)
    goals.append(Goal("loader: CPU s/GB", CLIENT_CPU_LIMIT_SECONDS_PER_GB, client_cpu))
    versus: list[tuple[Metric, str, float, str]] = [
        (WALL, PASSTHROUGH, PASSTHROUGH_WALL_LIMIT, ""),
        (DATABASE_CPU, PASSTHROUGH, PASSTHROUGH_DATABASE_CPU_LIMIT, ""),
    ]
    if peers := [label for label in labels if label not in (LOADER, LIMIT)]:
        best = min(peers, key=lambda label: median(runs, label, WALL))
        versus.append((WALL, best, PEER_WALL_LIMIT, ", the fastest of the others"))
    versus += [
        (WALL, LIMIT, LIMIT_WALL_LIMIT, ""),
        (DATABASE_CPU, LIMIT, LIMIT_DATABASE_CPU_LIMIT, ""),
    ]
    return goals + [
        Goal(
            f"{metric.title.split(' s')[0]}, loader ÷ {base}{note}",
            at_most,
            _ratio(runs, metric, LOADER, base),
        )
        for metric, base, at_most, note in versus
        if base in labels
    ]


def _ratio(runs: Sequence[Run], metric: Metric, label: str, base: str) -> float:
    whole = median(runs, base, metric)
    # A run of a test may take less CPU time than the kernel counts, 10 ms: then there is no ratio.
    return median(runs, label, metric) / whole if whole else math.nan
