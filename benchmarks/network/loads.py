"""Slow networks: what share of a long link the loader fills where one stream can't, and what more workers cost there."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from benchmarks import run as trial
from benchmarks.contenders.contenders import Contender, loader
from benchmarks.measure import run_pipeline
from benchmarks.network import link, throttle
from benchmarks.network.profile import Shape, Way
from benchmarks.reports.report import Goal, goals_table, spread, table
from benchmarks.run import Entry
from benchmarks.server import Server

BITS_PER_SECOND = 200e6
ROUND_TRIP_SECONDS = 0.080
# What Linux lets a connection's send buffer grow to; it fills this link.
FULL_BUFFER_BYTES = 4 << 20
SHAPES = {
    "1 packet in 10,000 is lost": Shape(BITS_PER_SECOND, ROUND_TRIP_SECONDS, FULL_BUFFER_BYTES, loss=1e-4),
    "512 KiB of send buffer": Shape(BITS_PER_SECOND, ROUND_TRIP_SECONDS, 512 << 10),
}
MANY_WORKERS = 8
STREAM = "curl, one stream"
LOADER = "loader"
MANY = f"loader, {MANY_WORKERS} workers"

UNUSED_LIMIT = 0.10
# No two loads take the same time.
WORKERS_LIMIT = 1.05


class NetworkTrial(msgspec.Struct, frozen=True):
    """What one client made of a way."""

    shape: str
    client: str
    share: float  # of the link's rate, while it fetched
    wall_seconds: float
    cpu_seconds: float  # of the client and of the database


def means() -> str:
    """Return how the way is made slow on this machine, for people."""
    if link.is_possible():
        return "a link between network namespaces"
    return "a server that holds back its answers, for lack of root"


def try_once(server: Server, sample: Path, rows: int) -> list[NetworkTrial]:
    """Fetch the sample over each way: by curl, and by the loader with few and with many workers."""
    trials: list[NetworkTrial] = []
    for name, shape in SHAPES.items():
        if shape.loss > 0 and not link.is_possible():
            continue
        opened: AbstractContextManager[Way]
        opened = (link.open_link if link.is_possible() else throttle.open_throttle)(shape, sample.parent)
        with opened as way:
            trials.append(_fetch(way, name, shape, sample))
            for client, ours in (
                (LOADER, loader("--progress=none")),
                (MANY, loader("--progress=none", f"--workers={MANY_WORKERS}")),
            ):
                trials.append(_load(way, name, shape, client, ours, server, sample, rows))
    for each in trials:
        print(f"{each.shape}, {each.client}: {each.share:.0%} of the link", file=sys.stderr)
    return trials


def report(trials: Sequence[NetworkTrial]) -> str:
    """Return tables of medians and spreads, and of the goals."""
    groups: dict[tuple[str, str], list[NetworkTrial]] = {}
    for each in trials:
        groups.setdefault((each.shape, each.client), []).append(each)
    rows = [
        [
            shape,
            client,
            spread([each.share * 100 for each in group], 1),
            spread([each.wall_seconds for each in group], 1),
            spread([each.cpu_seconds for each in group], 2),
        ]
        for (shape, client), group in groups.items()
    ]

    def middle(shape: str, client: str, of: Callable[[NetworkTrial], float]) -> float:
        return statistics.median(of(each) for each in groups[shape, client])

    goals: list[Goal] = []
    for shape in dict.fromkeys(each.shape for each in trials):
        unused = 1 - middle(shape, LOADER, lambda each: each.share)
        goals.append(Goal(f"{shape}: share of the link that the loader leaves unused", UNUSED_LIMIT, unused))
        measures: list[tuple[str, Callable[[NetworkTrial], float]]] = [
            ("wall", lambda each: each.wall_seconds),
            ("CPU", lambda each: each.cpu_seconds),
        ]
        for what, of in measures:
            ratio = middle(shape, MANY, of) / middle(shape, LOADER, of)
            goals.append(Goal(f"{shape}: {what}, {MANY_WORKERS} workers ÷ default", WORKERS_LIMIT, ratio))
    columns = ["way", "client", "% of the link", "wall s", "CPU s, client and database"]
    return f"{table(columns, rows)}\n\n{goals_table(goals)}"


def _fetch(way: Way, name: str, shape: Shape, sample: Path) -> NetworkTrial:
    """Let one stream fetch the file, to nowhere."""
    curl = shutil.which("curl")
    if curl is None:
        sys.exit("curl is missing, which is the one stream: install curl (apt install curl).")
    command = [curl, "--fail", "--silent", "--show-error", "--output", os.devnull]
    way.traffic()
    usage = run_pipeline([way.from_client([*command, f"{way.base_url}/{sample.name}"])], os.environ)
    share = way.traffic().bits_per_second / shape.bits_per_second
    return NetworkTrial(name, STREAM, share, usage.wall_seconds, usage.cpu_seconds)


def _load(
    way: Way, name: str, shape: Shape, client: str, ours: Contender, server: Server, sample: Path, rows: int
) -> NetworkTrial:
    def pipeline(source_url: str, database_url: str) -> list[list[str]]:
        return [way.from_client(command) for command in ours.pipeline(source_url, database_url)]

    contender = msgspec.structs.replace(ours, pipeline=pipeline)
    way.traffic()
    entry = Entry(client, contender, f"{way.base_url}/{sample.name}", sample.stat().st_size, rows)
    found = trial.try_once(server, entry)
    share = way.traffic().bits_per_second / shape.bits_per_second
    cpu_seconds = found.client_cpu_seconds + found.database_cpu_seconds
    return NetworkTrial(name, client, share, found.wall_seconds, cpu_seconds)
