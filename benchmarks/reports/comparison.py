"""The contenders side by side: what each takes, as a share of `curl | psql` and of the limit, and what must hold."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import run as trial
from benchmarks.contenders.contenders import Absent
from benchmarks.reports.report import Goal, goals_table, table
from benchmarks.run import Measure, Trial

LOADER = "loader"
PASSTHROUGH = "curl | psql"
LIMIT = "the limit"

PASSTHROUGH_WALL_LIMIT = 0.28
PASSTHROUGH_DATABASE_CPU_LIMIT = 0.50
# 1.8 times as fast.
PEER_WALL_LIMIT = 1 / 1.8
LIMIT_WALL_LIMIT = 1.2
LIMIT_DATABASE_CPU_LIMIT = 1.05
CLIENT_CPU_LIMIT_SECONDS_A_GB = 3.5
# Of what is stored, by wal_level.
WAL_LIMITS = {"minimal": 0.01, "replica": 1.05}


def report(trials: Sequence[Trial], wal_level: str, settings: Sequence[str], absent: Sequence[Absent]) -> str:
    """Return tables of medians, of ratios and of where the cores' time went, settings, and what must hold."""
    labels = list(dict.fromkeys(each.label for each in trials))
    measured = trial.table(trials, trial.CONTENDER_COLUMNS)
    width = len(trial.CONTENDER_COLUMNS)
    lacking = [f"| {each.name} | not installed |{' |' * (width - 1)}" for each in absent]
    shown = [*settings, *(f"{each.name}: {each.settings}" for each in absent)]
    return "\n\n".join(
        [
            "\n".join([measured, *lacking]),
            _ratios(trials, labels),
            trial.table(trials, trial.CORE_COLUMNS),
            "\n".join(f"- {line}" for line in shown),
            goals_table(_goals(trials, labels, wal_level)),
        ]
    )


def _ratios(trials: Sequence[Trial], labels: Sequence[str]) -> str:
    """Return each contender's medians as shares of those of the passthrough and of the limit, where they took part."""
    columns = [
        (measure, base)
        for base in (PASSTHROUGH, LIMIT)
        if base in labels
        for measure in (trial.WALL, trial.DATABASE_CPU)
    ]
    return table(
        ["", *(f"{measure.title.split(' s')[0]} ÷ {base}" for measure, base in columns)],
        [
            [label, *(f"{_ratio(trials, measure, label, base):.2f}" for measure, base in columns)]
            for label in labels
        ],
    )


def _goals(trials: Sequence[Trial], labels: Sequence[str], wal_level: str) -> list[Goal]:
    """Return what must hold of the loader against those that took part. How fast, is asked with wal_level=minimal."""
    wal = trial.median(trials, LOADER, trial.WAL_A_STORED_BYTE)
    goals = [Goal(f"loader: WAL ÷ stored, wal_level={wal_level}", WAL_LIMITS[wal_level], wal)]
    if wal_level != "minimal":
        return goals
    client_cpu = trial.median(trials, LOADER, trial.CLIENT_CPU_A_GB)
    goals.append(Goal("loader: CPU s/GB", CLIENT_CPU_LIMIT_SECONDS_A_GB, client_cpu))
    versus: list[tuple[Measure, str, float, str]] = [
        (trial.WALL, PASSTHROUGH, PASSTHROUGH_WALL_LIMIT, ""),
        (trial.DATABASE_CPU, PASSTHROUGH, PASSTHROUGH_DATABASE_CPU_LIMIT, ""),
    ]
    if peers := [label for label in labels if label not in (LOADER, LIMIT)]:
        best = min(peers, key=lambda label: trial.median(trials, label, trial.WALL))
        versus.append((trial.WALL, best, PEER_WALL_LIMIT, ", the fastest of the others"))
    versus += [
        (trial.WALL, LIMIT, LIMIT_WALL_LIMIT, ""),
        (trial.DATABASE_CPU, LIMIT, LIMIT_DATABASE_CPU_LIMIT, ""),
    ]
    return goals + [
        Goal(
            f"{measure.title.split(' s')[0]}, loader ÷ {base}{note}",
            at_most,
            _ratio(trials, measure, LOADER, base),
        )
        for measure, base, at_most, note in versus
        if base in labels
    ]


def _ratio(trials: Sequence[Trial], measure: Measure, label: str, base: str) -> float:
    return trial.median(trials, label, measure) / trial.median(trials, base, measure)
