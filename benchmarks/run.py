"""One trial of one contender with one file, and the medians of several."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.contenders.contenders import Contender
from benchmarks.measure import run_pipeline
from benchmarks.reports import report
from benchmarks.server import Server


class Entry(msgspec.Struct, frozen=True):
    """A contender with a file."""

    label: str
    contender: Contender
    source_url: str
    source_bytes: int
    rows: int


class Trial(msgspec.Struct, frozen=True):
    """What one trial took. The client is all that is neither the database nor the file server."""

    label: str
    source_bytes: int
    rows: int  # that a reader of trips sees afterwards
    wall_seconds: float
    client_cpu_seconds: float
    client_peak_bytes: int
    database_cpu_seconds: float
    other_cpu_seconds: float  # of what else was busy: the file server, the kernel's own threads
    idle_core_seconds: float
    stolen_core_seconds: float
    wal_bytes: int
    stored_bytes: int  # of the tables


def alternate(server: Server, entries: Sequence[Entry], runs: int) -> list[Trial]:
    """Let the entries take turns, in the other order every second time. Raises SystemExit where one fails."""
    trials: list[Trial] = []
    for run in range(runs):
        for entry in entries if run % 2 == 0 else reversed(entries):
            trials.append(try_once(server, entry))
            print(f"run {run + 1}, {entry.label}: {trials[-1].wall_seconds:.2f} s", file=sys.stderr)
    return trials


def try_once(server: Server, entry: Entry) -> Trial:
    """Load the file into a fresh database, and see that all its rows are there."""
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
        sys.exit(f"{entry.label} ended well, but trips has {rows:,} rows, not {entry.rows:,}")
    return Trial(
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


class Measure(msgspec.Struct, frozen=True):
    """A column of the table: what it shows of a trial."""

    title: str
    of: Callable[[Trial], float]
    digits: int  # behind the point


WALL = Measure("wall s", lambda trial: trial.wall_seconds, 2)
CLIENT_CPU = Measure("client CPU s", lambda trial: trial.client_cpu_seconds, 2)
CLIENT_CPU_A_GB = Measure(
    "client CPU s/GB", lambda trial: trial.client_cpu_seconds / trial.source_bytes * 1e9, 2
)
ALL_DATABASE_CPU = Measure("database CPU s", lambda trial: trial.database_cpu_seconds, 2)
DATABASE_CPU = Measure(
    "database CPU s/M rows", lambda trial: trial.database_cpu_seconds / trial.rows * 1e6, 2
)
OTHER_CPU = Measure("other CPU s", lambda trial: trial.other_cpu_seconds, 2)
IDLE = Measure("idle core s", lambda trial: trial.idle_core_seconds, 2)
STOLEN = Measure("stolen core s", lambda trial: trial.stolen_core_seconds, 2)
MEMORY = Measure("client memory MB", lambda trial: trial.client_peak_bytes / 1e6, 0)
WAL = Measure("WAL MB", lambda trial: trial.wal_bytes / 1e6, 1)
WAL_A_STORED_BYTE = Measure("WAL ÷ stored", lambda trial: trial.wal_bytes / trial.stored_bytes, 4)
STORED = Measure("stored MB", lambda trial: trial.stored_bytes / 1e6, 0)
FILE = Measure("file MB", lambda trial: trial.source_bytes / 1e6, 0)
ROWS = Measure("rows in trips", lambda trial: trial.rows, 0)

CONTENDER_COLUMNS = (WALL, DATABASE_CPU, CLIENT_CPU_A_GB, MEMORY, WAL, STORED, ROWS)
# Where the time of the cores went: what follows adds up to the wall time of each core.
CORE_COLUMNS = (WALL, CLIENT_CPU, ALL_DATABASE_CPU, OTHER_CPU, IDLE, STOLEN)
DIALECT_COLUMNS = (FILE, WALL, CLIENT_CPU, DATABASE_CPU, MEMORY, ROWS)


def table(trials: Sequence[Trial], columns: Sequence[Measure]) -> str:
    """Return a Markdown table with a row for each entry, in the order of the first run."""
    rows: list[list[str]] = []
    for label in dict.fromkeys(trial.label for trial in trials):
        group = [trial for trial in trials if trial.label == label]
        rows.append(
            [label, *(report.spread([each.of(trial) for trial in group], each.digits) for each in columns)]
        )
    return report.table(["", *(each.title for each in columns)], rows)


def median(trials: Sequence[Trial], label: str, measure: Measure) -> float:
    """Return the median of an entry's trials."""
    return statistics.median(measure.of(trial) for trial in trials if trial.label == label)
