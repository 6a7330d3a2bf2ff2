"""Figures and goals of the service: latency, start, cancel, memory, and its cost to a loader."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.reports.report import Goal, goals_table, spread, table
from benchmarks.run import Entry
from benchmarks.server import Server
from benchmarks.service.request_load import percentile
from benchmarks.service.scenarios import (
    GETS_PER_SECOND,
    SUBMISSIONS,
    Cancel,
    Load,
    Requests,
    Start,
    load_by_cli,
    load_by_service,
    requests,
    start_and_cancel,
)

GET_LIMIT_MILLISECONDS = 20
START_LIMIT_SECONDS = 2
STOP_LIMIT_SECONDS = 2
REMOVAL_LIMIT_SECONDS_PER_GB = 0.5
SUBMISSIONS_LIMIT_SECONDS = SUBMISSIONS / 200
MEMORY_LIMIT_MB = 150
LOADER_LIMIT = 1.03
# Loads by CLI and by service per run: a single load varies by more than the limit.
LOADS = 3


class ServiceRun(msgspec.Struct, frozen=True):
    """Everything measured in one run."""

    start: Start
    cancel: Cancel
    requests: Requests
    cli: list[Load]
    service: list[Load]


def run_once(server: Server, entry: Entry, folder: Path, *, seconds: float) -> ServiceRun:
    """Measure everything once, with `seconds` of GETs. CLI and service alternate in loading first."""
    start, cancel = start_and_cancel(server, entry, folder)
    found = requests(server, entry, folder, seconds)
    cli: list[Load] = []
    service: list[Load] = []
    for number in range(LOADS):
        if number % 2 == 0:
            cli.append(load_by_cli(server, entry))
        service.append(load_by_service(server, entry, folder))
        if number % 2 == 1:
            cli.append(load_by_cli(server, entry))
    return ServiceRun(start, cancel, found, cli, service)


class _Figure(msgspec.Struct, frozen=True):
    """A line of the table, and its goal, if any."""

    what: str
    unit: str
    of: Callable[[ServiceRun], float]
    digits: int
    at_most: float | None = None


def _get_milliseconds(run: ServiceRun, percent: float) -> float:
    return percentile([response.seconds for response in run.requests.gets], percent) * 1e3


def _late_milliseconds(run: ServiceRun) -> float:
    return percentile([response.sent_seconds for response in run.requests.gets], 99) * 1e3


def _beyond_removal_seconds(run: ServiceRun) -> float:
    """Seconds of a cancel beyond the allowance for what was staged."""
    cancel = run.cancel
    return cancel.cancelled_seconds - REMOVAL_LIMIT_SECONDS_PER_GB * cancel.staged_bytes / 1e9


_GET = f"GET, {GETS_PER_SECOND}/s, two imports load:"
_FIGURES = (
    _Figure(f"{_GET} p50", "ms", lambda run: _get_milliseconds(run, 50), 1),
    _Figure(f"{_GET} p99", "ms", lambda run: _get_milliseconds(run, 99), 1, GET_LIMIT_MILLISECONDS),
    _Figure(f"{_GET} slowest", "ms", lambda run: _get_milliseconds(run, 100), 1),
    _Figure("of that, sent late by the client: p99", "ms", _late_milliseconds, 1),
    _Figure(
        "submit → loader's first message",
        "s",
        lambda run: run.start.first_message_seconds,
        2,
        START_LIMIT_SECONDS,
    ),
    _Figure(
        "submit → first rows loaded",
        "s",
        lambda run: run.start.first_rows_seconds,
        2,
        START_LIMIT_SECONDS,
    ),
    _Figure(
        "the same while another import loads: first message",
        "s",
        lambda run: run.requests.start.first_message_seconds,
        2,
        START_LIMIT_SECONDS,
    ),
    _Figure(
        "the same while another import loads: first rows",
        "s",
        lambda run: run.requests.start.first_rows_seconds,
        2,
    ),
    _Figure("cancel: GB staged", "GB", lambda run: run.cancel.staged_bytes / 1e9, 2),
    _Figure("cancel → last COPY ended", "s", lambda run: run.cancel.stop_seconds, 2, STOP_LIMIT_SECONDS),
    _Figure("cancel → cancelled", "s", lambda run: run.cancel.cancelled_seconds, 2),
    _Figure(
        f"cancel → cancelled, less {REMOVAL_LIMIT_SECONDS_PER_GB} s/GB staged",
        "s",
        _beyond_removal_seconds,
        2,
        STOP_LIMIT_SECONDS,
    ),
    _Figure(
        f"submit {SUBMISSIONS:,}, the slots taken",
        "s",
        lambda run: run.requests.queue_seconds,
        2,
        SUBMISSIONS_LIMIT_SECONDS,
    ),
    _Figure(
        f"submit {SUBMISSIONS:,}, two imports load",
        "s",
        lambda run: run.requests.busy_queue_seconds,
        2,
        SUBMISSIONS_LIMIT_SECONDS,
    ),
    _Figure(
        "memory of the service",
        "MB",
        lambda run: run.requests.service_peak_bytes / 1e6,
        0,
        MEMORY_LIMIT_MB,
    ),
)


def report(runs: Sequence[ServiceRun]) -> str:
    """Return tables: medians and spreads, one row per figure; the loads; the goals."""
    rows = [
        [f"{each.what}, {each.unit}", spread([each.of(run) for run in runs], each.digits)]
        for each in _FIGURES
    ]
    goals = [
        Goal(each.what, each.at_most, statistics.median(each.of(run) for run in runs), f" {each.unit}")
        for each in _FIGURES
        if each.at_most is not None
    ]
    cli = [load for run in runs for load in run.cli]
    service = [load for run in runs for load in run.service]
    share = _median_seconds(service) / _median_seconds(cli)
    goals.append(Goal("the loader's seconds, service ÷ CLI", LOADER_LIMIT, share))
    return "\n\n".join(
        [table(["", "measured"], rows), _loads_table({"CLI": cli, "service": service}), goals_table(goals)]
    )


def _loads_table(loads: Mapping[str, Sequence[Load]]) -> str:
    rows = [
        [
            name,
            spread([load.loader_seconds for load in group], 2),
            spread([load.seconds for load in group], 2),
        ]
        for name, group in loads.items()
    ]
    return table(["", "the loader's seconds", "start or submit → end s"], rows)


def _median_seconds(loads: Sequence[Load]) -> float:
    return statistics.median(load.loader_seconds for load in loads)
