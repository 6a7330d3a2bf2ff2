"""Tables and goals of scaling.py: what must not grow with the file, and an estimate for 290 GB."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks.reports.model import Costs, Machine, estimate
from benchmarks.reports.report import Goal, goals_table, spread, table
from benchmarks.scaling import WORKERS, ScalingRun
from loader.pipeline.workers import usable_cores

MEMORY_LIMIT_MB = 400
# Beyond the variation of allocators and threads from run to run.
MEMORY_GROWTH_LIMIT = 1.1
TIME_GROWTH_LIMIT = 1.1
PUBLISH_LIMIT_SECONDS = 1
STOP_LIMIT_SECONDS = 0.5
REMOVAL_LIMIT_SECONDS_PER_GB = 0.4
# The probe is fetched again.
FETCH_LIMIT = 1.01
RESUME_LIMIT = 1.1

LARGEST_GB = 290
# A network of 10 Gbit/s and the sustained write rate of an NVMe disk. The loader's default number of workers, and a
# number that leaves a core to each of two in three backends.
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

Metric = Callable[[ScalingRun], float]
# Title, value, digits after the decimal point.
LOADING_COLUMNS: tuple[tuple[str, Metric, int], ...] = (
    ("wall s", lambda run: run.loading.wall_seconds, 1),
    ("s/GB", lambda run: run.seconds_per_gb, 2),
    ("first piece s", lambda run: run.loading.first_piece_seconds, 2),
    ("last piece s", lambda run: run.loading.last_piece_seconds, 2),
    ("loader memory MB", lambda run: run.loading.peak_bytes / 1e6, 0),
    ("publish s", lambda run: run.loading.publish_seconds, 3),
)
ENDING_COLUMNS: tuple[tuple[str, Metric, int], ...] = (
    ("staged GB at SIGTERM", lambda run: run.roll_back.staged_bytes / 1e9, 2),
    ("last COPY ended after s", lambda run: run.roll_back.stop_seconds, 2),
    ("loader ended after s", lambda run: run.roll_back.seconds, 2),
    ("removal s/GB", lambda run: run.removal_seconds_per_gb, 3),
    ("DROP TABLE s/GB", lambda run: run.drop_table_seconds_per_gb, 3),
    ("missing GB after SIGKILL", lambda run: run.resume.missing_bytes / 1e9, 2),
    ("fetched GB", lambda run: run.resume.fetched_bytes / 1e9, 2),
    ("resume s", lambda run: run.resume.wall_seconds, 1),
)


def report(runs: Sequence[ScalingRun]) -> str:
    """Return tables: medians and spreads, one row per size; the goals; the model."""
    by_label: dict[str, list[ScalingRun]] = {}
    for run in runs:
        by_label.setdefault(run.label, []).append(run)
    groups = list(by_label.values())
    tables = [_table(by_label, columns) for columns in (LOADING_COLUMNS, ENDING_COLUMNS)]
    return "\n\n".join([*tables, goals_table(_goals(groups)), _model(groups[-1])])


def _table(by_label: dict[str, list[ScalingRun]], columns: Sequence[tuple[str, Metric, int]]) -> str:
    return table(
        ["file", *(title for title, _, _ in columns)],
        [
            [label, *(spread([of(run) for run in group], digits) for _, of, digits in columns)]
            for label, group in by_label.items()
        ],
    )


def _goals(groups: Sequence[Sequence[ScalingRun]]) -> list[Goal]:
    """Return the goals over the sizes, which are in ascending order."""

    def median(group: Sequence[ScalingRun], of: Metric) -> float:
        return statistics.median(of(run) for run in group)

    def worst(of: Metric) -> float:
        return max(median(group, of) for group in groups)

    def growth(of: Metric) -> float:
        return median(groups[-1], of) / median(groups[0], of)

    return [
        Goal("s/GB, largest file ÷ smallest", TIME_GROWTH_LIMIT, growth(lambda run: run.seconds_per_gb)),
        Goal(
            "largest file, last piece ÷ first",
            TIME_GROWTH_LIMIT,
            median(
                groups[-1],
                lambda run: run.loading.last_piece_seconds / run.loading.first_piece_seconds,
            ),
        ),
        Goal(
            f"loader memory, {WORKERS} workers",
            MEMORY_LIMIT_MB,
            worst(lambda run: run.loading.peak_bytes / 1e6),
            " MB",
        ),
        Goal(
            "the same, largest file ÷ smallest",
            MEMORY_GROWTH_LIMIT,
            growth(lambda run: run.loading.peak_bytes),
        ),
        Goal("publish", PUBLISH_LIMIT_SECONDS, worst(lambda run: run.loading.publish_seconds), " s"),
        Goal(
            "loading stops after SIGTERM",
            STOP_LIMIT_SECONDS,
            worst(lambda run: run.roll_back.stop_seconds),
            " s",
        ),
        Goal(
            "removal s/GB", REMOVAL_LIMIT_SECONDS_PER_GB, worst(lambda run: run.removal_seconds_per_gb), " s"
        ),
        # A small file is still in the server's memory and costs less, so each size is compared with its own DROP TABLE.
        Goal(
            "removal s/GB ÷ DROP TABLE s/GB",
            1,
            worst(lambda run: run.removal_seconds_per_gb / run.drop_table_seconds_per_gb),
        ),
        Goal(
            "resume: fetched ÷ missing",
            FETCH_LIMIT,
            worst(lambda run: run.resume.fetched_bytes / run.resume.missing_bytes),
        ),
        Goal(
            "resume ÷ what the whole load takes for as many bytes",
            RESUME_LIMIT,
            worst(lambda run: run.resume_share),
        ),
    ]


def _model(group: Sequence[ScalingRun]) -> str:
    """Return the model's estimates from the largest measured file."""

    def per_gb(of: Metric) -> float:
        return statistics.median(of(run) / run.source_bytes * 1e9 for run in group)

    costs = Costs(
        seconds=per_gb(lambda run: run.loading.wall_seconds),
        client_cpu_seconds=per_gb(lambda run: run.loading.client_cpu_seconds),
        database_cpu_seconds=per_gb(lambda run: run.loading.database_cpu_seconds),
        stored_gb=per_gb(lambda run: run.loading.table_bytes / 1e9),
    )
    here = Machine("this machine", len(usable_cores()), WORKERS)
    rows: list[list[str]] = []
    for machine in (here, *NVME_SERVERS):
        found = estimate(costs, here, machine)
        others = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.seconds_by_resource.items())
        minutes = found.seconds * LARGEST_GB / 60
        rows.append([machine.name, f"{minutes:.0f}", f"{found.seconds:.2f}", found.bottleneck, others])
    costs_text = (
        f"A GB costs {costs.client_cpu_seconds:.2f} CPU-s of the loader and {costs.database_cpu_seconds:.2f} of the"
        f" database, {costs.stored_gb:.2f} GB stored and {costs.seconds:.2f} s."
        " Estimates of the model (benchmarks/reports/model.py):"
    )
    columns = [f"{LARGEST_GB} GB on", "minutes", "s/GB", "bottleneck", "s/GB of each"]
    return f"{costs_text}\n\n{table(columns, rows)}"
