"""The start-up time of a load: a file of a megabyte, by phases, and Python's imports."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from benchmarks.contenders.contenders import loader
from benchmarks.reports.report import Goal, goals_table, spread, table
from benchmarks.run import Entry
from benchmarks.server import Server
from benchmarks.timed_messages import TimedMessage, phase_start, timed_messages
from benchmarks.usage import run_pipeline
from loader.contract import Message, Probed, Published, Started

CONTENDER = loader("--progress=json")
FILE_BYTES = 1_000_000
WALL_LIMIT_SECONDS = 2
# Packages that take less are summed up as "others".
SHOWN_IMPORT_MILLISECONDS = 20


class StartupRun(msgspec.Struct, frozen=True):
    """What one load took. A phase is named after the event that ends it."""

    wall_seconds: float
    cpu_seconds: float
    phase_seconds: dict[str, float]


def run_once(server: Server, entry: Entry) -> StartupRun:
    """Load a small file, with a kernel that is already compiled."""
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    pipeline = entry.contender.pipeline(entry.source_url, server.database_url)
    with server.fresh_database(entry.contender.prepare), timed_messages() as (output, messages):
        started_at = time.perf_counter()
        usage = run_pipeline(pipeline, environment, output=output)
        ended_at = time.perf_counter()
    return StartupRun(usage.wall_seconds, usage.cpu_seconds, _phases(started_at, messages, ended_at))


def import_milliseconds(server: Server, entry: Entry) -> dict[str, float]:
    """Return the milliseconds that Python takes to import each package of a load, longest first.

    https://docs.python.org/3/using/cmdline.html#cmdoption-X
    """
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    (command,) = entry.contender.pipeline(entry.source_url, server.database_url)
    with server.fresh_database(entry.contender.prepare):
        ended = subprocess.run(
            [sys.executable, "-X", "importtime", *command[1:]],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
    spent: Counter[str] = Counter()
    for microseconds, package in re.findall(
        r"import time:\s+(\d+) \|\s+\d+ \|\s+([A-Za-z]\w*)", ended.stderr
    ):
        spent[package] += int(microseconds)
    shown = {
        name: found / 1e3 for name, found in spent.most_common() if found >= SHOWN_IMPORT_MILLISECONDS * 1e3
    }
    return {**shown, "others": spent.total() / 1e3 - sum(shown.values())}


def report(runs: Sequence[StartupRun], imports: dict[str, float]) -> str:
    """Return tables: the phases, the imports and the goal."""
    rows = [["whole", spread([run.wall_seconds for run in runs], 2)]]
    rows += [
        [phase, spread([run.phase_seconds[phase] for run in runs], 2)] for phase in runs[0].phase_seconds
    ]
    rows.append(["CPU of the loader", spread([run.cpu_seconds for run in runs], 2)])
    shown = ", ".join(f"{name} {milliseconds:.0f}" for name, milliseconds in imports.items())
    wall = statistics.median(run.wall_seconds for run in runs)
    return "\n\n".join(
        [
            table(["", "s"], rows),
            f"Imports in ms, without nested ones, by -X importtime (which adds some): {shown}.",
            goals_table([Goal("wall", WALL_LIMIT_SECONDS, wall, " s")]),
        ]
    )


def _phases(started_at: float, messages: Sequence[TimedMessage], ended_at: float) -> dict[str, float]:
    """Return the seconds between successive events, named after the later one."""
    events = [
        ("Python and imports, to the first message", _first(messages, Started)),
        ("source and database, to `probed`", _first(messages, Probed)),
        ("rows, to `publishing`", phase_start(messages, "publishing")),
        ("publish, to `published`", _first(messages, Published)),
        ("exit of the process", ended_at),
    ]
    previous = [started_at, *(at for _, at in events)]
    return {name: at - before for (name, at), before in zip(events, previous, strict=False)}


def _first(messages: Sequence[TimedMessage], kind: type[Message]) -> float:
    return next(at for at, message in messages if isinstance(message, kind))
