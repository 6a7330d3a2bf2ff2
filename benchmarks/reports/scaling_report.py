"""What must not grow with the file, and what the largest file of all would take: tables and goals of growth.py."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence

from benchmarks.reports.model import Costs, Machine, estimate
from benchmarks.reports.report import Goal, goals_table, spread, table
from benchmarks.scaling import WORKERS, GrowthTrial

MEMORY_LIMIT_MB = 400
# No two runs of allocators and threads are the same: the larger file may take so much more.
MEMORY_GROWTH_LIMIT = 1.1
TIME_GROWTH_LIMIT = 1.1
PUBLISH_LIMIT_SECONDS = 1
STOP_LIMIT_SECONDS = 0.5
REMOVAL_LIMIT_SECONDS_A_GB = 0.4
# The probe is fetched again.
FETCH_LIMIT = 1.01
RESUME_LIMIT = 1.1

LARGEST_GB = 290
# Ten gigabits, and what an NVMe disk writes for minutes on end; the loader's default workers, and a core each for
# two of three backends.
NVME_SERVERS = tuple(
    Machine(
        f"16 cores, NVMe, {workers} workers",
        16,
        workers,
        disk_gb_per_second=2.0,
        network_gb_per_second=1.25,
    )
    for workers in (4, 12)
)

Measure = Callable[[GrowthTrial], float]
# Title, value, digits behind the point.
LOADING_COLUMNS: tuple[tuple[str, Measure, int], ...] = (
    ("wall s", lambda trial: trial.loading.wall_seconds, 1),
    ("s/GB", lambda trial: trial.seconds_a_gb, 2),
    ("first piece s", lambda trial: trial.loading.first_piece_seconds, 2),
    ("last piece s", lambda trial: trial.loading.last_piece_seconds, 2),
    ("loader memory MB", lambda trial: trial.loading.peak_bytes / 1e6, 0),
    ("publish s", lambda trial: trial.loading.publish_seconds, 3),
)
ENDING_COLUMNS: tuple[tuple[str, Measure, int], ...] = (
    ("staged GB at SIGTERM", lambda trial: trial.roll_back.staged_bytes / 1e9, 2),
    ("last COPY ended after s", lambda trial: trial.roll_back.stop_seconds, 2),
    ("loader ended after s", lambda trial: trial.roll_back.seconds, 2),
    ("removal s/GB", lambda trial: trial.removal_seconds_a_gb, 3),
    ("DROP TABLE s/GB", lambda trial: trial.drop_table_seconds_a_gb, 3),
    ("missing GB after SIGKILL", lambda trial: trial.resume.missing_bytes / 1e9, 2),
    ("fetched GB", lambda trial: trial.resume.fetched_bytes / 1e9, 2),
    ("resume s", lambda trial: trial.resume.wall_seconds, 1),
)


def report(trials: Sequence[GrowthTrial]) -> str:
    """Return tables of medians and spreads, a row a size, of the goals, and of the model."""
    by_label: dict[str, list[GrowthTrial]] = {}
    for trial in trials:
        by_label.setdefault(trial.label, []).append(trial)
    groups = list(by_label.values())
    tables = [_table(by_label, columns) for columns in (LOADING_COLUMNS, ENDING_COLUMNS)]
    return "\n\n".join([*tables, goals_table(_goals(groups)), _model(groups[-1])])


def _table(by_label: dict[str, list[GrowthTrial]], columns: Sequence[tuple[str, Measure, int]]) -> str:
    return table(
        ["file", *(title for title, _, _ in columns)],
        [
            [label, *(spread([of(trial) for trial in group], digits) for _, of, digits in columns)]
            for label, group in by_label.items()
        ],
    )


def _goals(groups: Sequence[Sequence[GrowthTrial]]) -> list[Goal]:
    """Return what must hold of the sizes, which are in ascending order."""

    def middle(group: Sequence[GrowthTrial], of: Measure) -> float:
        return statistics.median(of(trial) for trial in group)

    def worst(of: Measure) -> float:
        return max(middle(group, of) for group in groups)

    def growth(of: Measure) -> float:
        return middle(groups[-1], of) / middle(groups[0], of)

    return [
        Goal("s/GB, largest file ÷ smallest", TIME_GROWTH_LIMIT, growth(lambda trial: trial.seconds_a_gb)),
        Goal(
            "largest file, last piece ÷ first",
            TIME_GROWTH_LIMIT,
            middle(
                groups[-1],
                lambda trial: trial.loading.last_piece_seconds / trial.loading.first_piece_seconds,
            ),
        ),
        Goal(
            f"loader memory, {WORKERS} workers",
            MEMORY_LIMIT_MB,
            worst(lambda trial: trial.loading.peak_bytes / 1e6),
            " MB",
        ),
        Goal(
            "the same, largest file ÷ smallest",
            MEMORY_GROWTH_LIMIT,
            growth(lambda trial: trial.loading.peak_bytes),
        ),
        Goal("publish", PUBLISH_LIMIT_SECONDS, worst(lambda trial: trial.loading.publish_seconds), " s"),
        Goal(
            "loading stops after SIGTERM",
            STOP_LIMIT_SECONDS,
            worst(lambda trial: trial.roll_back.stop_seconds),
            " s",
        ),
        Goal(
            "removal s/GB", REMOVAL_LIMIT_SECONDS_A_GB, worst(lambda trial: trial.removal_seconds_a_gb), " s"
        ),
        # A small file is still in the server's memory and costs less: so each size is held to the server's own DROP.
        Goal(
            "removal s/GB ÷ DROP TABLE s/GB",
            1,
            worst(lambda trial: trial.removal_seconds_a_gb / trial.drop_table_seconds_a_gb),
        ),
        Goal(
            "resume: fetched ÷ missing",
            FETCH_LIMIT,
            worst(lambda trial: trial.resume.fetched_bytes / trial.resume.missing_bytes),
        ),
        Goal(
            "resume ÷ what the whole load takes for as many bytes",
            RESUME_LIMIT,
            worst(lambda trial: trial.resume_share),
        ),
    ]


def _model(group: Sequence[GrowthTrial]) -> str:
    """Return what the model makes of the largest file that was measured."""

    def a_gb(of: Measure) -> float:
        return statistics.median(of(trial) / trial.source_bytes * 1e9 for trial in group)

    costs = Costs(
        seconds=a_gb(lambda trial: trial.loading.wall_seconds),
        client_cpu_seconds=a_gb(lambda trial: trial.loading.client_cpu_seconds),
        database_cpu_seconds=a_gb(lambda trial: trial.loading.database_cpu_seconds),
        stored_gb=a_gb(lambda trial: trial.loading.table_bytes / 1e9),
    )
    here = Machine("this machine", len(os.sched_getaffinity(0)), WORKERS)
    rows: list[list[str]] = []
    for machine in (here, *NVME_SERVERS):
        found = estimate(costs, here, machine)
        others = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.seconds_by_resource.items())
        minutes = found.seconds * LARGEST_GB / 60
        rows.append([machine.name, f"{minutes:.0f}", f"{found.seconds:.2f}", found.bottleneck, others])
    said = (
        f"A GB costs {costs.client_cpu_seconds:.2f} CPU-s of the loader and {costs.database_cpu_seconds:.2f} of the"
        f" database, {costs.stored_gb:.2f} GB stored and {costs.seconds:.2f} s. By the model (benchmarks/reports/model.py):"
    )
    columns = [f"{LARGEST_GB} GB on", "minutes", "s/GB", "bottleneck", "s/GB of each"]
    return f"{said}\n\n{table(columns, rows)}"
