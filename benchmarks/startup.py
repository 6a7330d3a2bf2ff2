"""What a load takes before it has loaded anything: a file of a megabyte, its phases, and what Python imports."""

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
from benchmarks.measure import run_pipeline
from benchmarks.reports.report import Goal, goals_table, spread, table
from benchmarks.run import Entry
from benchmarks.server import Server
from benchmarks.timed_messages import TimedMessage, phase_began, timed_messages
from loader.contract import Message, Probed, Published, Started

CONTENDER = loader("--progress=json")
FILE_BYTES = 1_000_000
WALL_LIMIT_SECONDS = 2
# Packages that take less than this are summed up.
SHOWN_IMPORT_MILLISECONDS = 20


class StartTrial(msgspec.Struct, frozen=True):
    """What one load took. Each phase ends with what it is named after."""

    wall_seconds: float
    cpu_seconds: float
    phase_seconds: dict[str, float]


def try_once(server: Server, entry: Entry) -> StartTrial:
    """Load a small file, with a kernel that was compiled before."""
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    pipeline = entry.contender.pipeline(entry.source_url, server.database_url)
    with server.fresh_database(entry.contender.prepare), timed_messages() as (output, messages):
        began = time.perf_counter()
        usage = run_pipeline(pipeline, environment, output=output)
        ended = time.perf_counter()
    return StartTrial(usage.wall_seconds, usage.cpu_seconds, _phases(began, messages, ended))


def import_milliseconds(server: Server, entry: Entry) -> dict[str, float]:
    """Return how long Python takes with each package of a load, the longest first.

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


def report(trials: Sequence[StartTrial], imports: dict[str, float]) -> str:
    """Return tables of the phases and of the imports, and of the goal."""
    rows = [["whole", spread([trial.wall_seconds for trial in trials], 2)]]
    rows += [
        [phase, spread([trial.phase_seconds[phase] for trial in trials], 2)]
        for phase in trials[0].phase_seconds
    ]
    rows.append(["CPU of the loader", spread([trial.cpu_seconds for trial in trials], 2)])
    shown = ", ".join(f"{name} {milliseconds:.0f}" for name, milliseconds in imports.items())
    wall = statistics.median(trial.wall_seconds for trial in trials)
    return "\n\n".join(
        [
            table(["", "s"], rows),
            f"Imports, in ms of their own, as -X importtime counts them (which takes some itself): {shown}.",
            goals_table([Goal("wall", WALL_LIMIT_SECONDS, wall, " s")]),
        ]
    )


def _phases(began: float, messages: Sequence[TimedMessage], ended: float) -> dict[str, float]:
    """Return what passed until each mark was reached, since the mark before it."""
    marks = [
        ("Python and imports, to the first message", _first(messages, Started)),
        ("source and database, to `probed`", _first(messages, Probed)),
        ("rows, to `publishing`", phase_began(messages, "publishing")),
        ("publish, to `published`", _first(messages, Published)),
        ("end of the process", ended),
    ]
    befores = [began, *(at for _, at in marks)]
    return {name: at - before for (name, at), before in zip(marks, befores, strict=False)}


def _first(messages: Sequence[TimedMessage], kind: type[Message]) -> float:
    return next(at for at, message in messages if isinstance(message, kind))
