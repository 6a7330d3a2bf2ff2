"""One run of one contender with one file, and the medians of several."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.contenders.contenders import Contender
from benchmarks.reports.report import spread, table
from benchmarks.server import Server
from benchmarks.usage import run_pipeline


class Entry(msgspec.Struct, frozen=True):
    """A contender with a file."""

    label: str
    contender: Contender
    source_url: str
    source_bytes: int
    rows: int


class Run(msgspec.Struct, frozen=True):
    """What one run took. The client is everything but the database and the file server."""

    label: str
    source_bytes: int
    rows: int  # in trips afterwards
    wall_seconds: float
    client_cpu_seconds: float
    client_peak_bytes: int
    database_cpu_seconds: float
    other_cpu_seconds: float  # of everything else: the file server, the kernel's threads
    idle_core_seconds: float
    stolen_core_seconds: float
    wal_bytes: int
    stored_bytes: int  # of the tables


def run_alternating(server: Server, entries: Sequence[Entry], repeats: int) -> list[Run]:
    """Run the entries in turn, every second time in reverse order. Raises SystemExit if one fails."""
    runs: list[Run] = []
    for number in range(repeats):
        for entry in entries if number % 2 == 0 else reversed(entries):
            runs.append(run_once(server, entry))
            print(f"run {number + 1}, {entry.label}: {runs[-1].wall_seconds:.2f} s", file=sys.stderr)
    return runs


def run_once(server: Server, entry: Entry) -> Run:
    """Load the file into a fresh database, and verify the number of rows."""
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    pipeline = entry.contender.pipeline(entry.source_url, server.database_url)
    with server.fresh_database(entry.contender.prepare):
        empty_bytes = server.database_bytes()
        cpu_seconds, wal_bytes = server.cpu_seconds(), server.wal_bytes()
        usage = run_pipeline(pipeline, environment)
        cpu_seconds, wal_bytes = server.cpu_seconds() - cpu_seconds, server.wal_bytes() - wal_bytes
        stored_bytes = server.database_bytes() - empty_bytes
        rows = server.row_count()
    if rows != entry.rows:
        sys.exit(f"{entry.label} succeeded, but trips has {rows:,} rows, not {entry.rows:,}")
    return Run(
        label=entry.label,
        source_bytes=entry.source_bytes,
        rows=rows,
        wall_seconds=usage.wall_seconds,
        client_cpu_seconds=usage.cpu_seconds,
        client_peak_bytes=usage.peak_bytes,
        database_cpu_seconds=cpu_seconds,
        other_cpu_seconds=usage.busy_core_seconds - usage.cpu_seconds - cpu_seconds,
        idle_core_seconds=usage.idle_core_seconds,
        stolen_core_seconds=usage.stolen_core_seconds,
        wal_bytes=wal_bytes,
        stored_bytes=stored_bytes,
    )


class Metric(msgspec.Struct, frozen=True):
    """A column of the table, and how its value is computed from a run."""

    title: str
    of: Callable[[Run], float]
    digits: int  # after the decimal point


WALL = Metric("wall s", lambda run: run.wall_seconds, 2)
CLIENT_CPU = Metric("client CPU s", lambda run: run.client_cpu_seconds, 2)
CLIENT_CPU_PER_GB = Metric("client CPU s/GB", lambda run: run.client_cpu_seconds / run.source_bytes * 1e9, 2)
ALL_DATABASE_CPU = Metric("database CPU s", lambda run: run.database_cpu_seconds, 2)
DATABASE_CPU = Metric("database CPU s/M rows", lambda run: run.database_cpu_seconds / run.rows * 1e6, 2)
OTHER_CPU = Metric("other CPU s", lambda run: run.other_cpu_seconds, 2)
IDLE = Metric("idle core s", lambda run: run.idle_core_seconds, 2)
STOLEN = Metric("stolen core s", lambda run: run.stolen_core_seconds, 2)
MEMORY = Metric("client memory MB", lambda run: run.client_peak_bytes / 1e6, 0)
WAL = Metric("WAL MB", lambda run: run.wal_bytes / 1e6, 1)
WAL_PER_STORED_BYTE = Metric("WAL ÷ stored", lambda run: run.wal_bytes / run.stored_bytes, 4)
STORED = Metric("stored MB", lambda run: run.stored_bytes / 1e6, 0)
FILE = Metric("file MB", lambda run: run.source_bytes / 1e6, 0)
ROWS = Metric("rows in trips", lambda run: run.rows, 0)

CONTENDER_COLUMNS = (WALL, DATABASE_CPU, CLIENT_CPU_PER_GB, MEMORY, WAL, STORED, ROWS)
# How the cores spent the wall time: the columns after the first add up to it, times the number of cores.
CORE_COLUMNS = (WALL, CLIENT_CPU, ALL_DATABASE_CPU, OTHER_CPU, IDLE, STOLEN)
DIALECT_COLUMNS = (FILE, WALL, CLIENT_CPU, DATABASE_CPU, MEMORY, ROWS)


def runs_table(runs: Sequence[Run], columns: Sequence[Metric]) -> str:
    """Return a Markdown table with a row for each entry, in the order of the first run."""
    rows: list[list[str]] = []
    for label in dict.fromkeys(run.label for run in runs):
        group = [run for run in runs if run.label == label]
        rows.append([label, *(spread([each.of(run) for run in group], each.digits) for each in columns)])
    return table(["", *(each.title for each in columns)], rows)


def median(runs: Sequence[Run], label: str, metric: Metric) -> float:
    """Return the median of a metric over the runs of an entry."""
    return statistics.median(metric.of(run) for run in runs if run.label == label)
