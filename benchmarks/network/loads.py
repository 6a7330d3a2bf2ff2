"""The loader over slow networks: the share of the link that it uses, against one stream, and the cost of more workers."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from benchmarks.contenders.contenders import Contender, loader
from benchmarks.network import link, throttle
from benchmarks.network.profile import EmulatedNetwork, NetworkProfile
from benchmarks.reports.report import Goal, goals_table, spread, table
from benchmarks.run import Entry, run_once
from benchmarks.server import Server
from benchmarks.usage import run_pipeline

BITS_PER_SECOND = 200e6
ROUND_TRIP_SECONDS = 0.080
# The default limit of Linux for a connection's send buffer; it fills this link.
FULL_BUFFER_BYTES = 4 << 20
PROFILES = {
    "1 packet in 10,000 is lost": NetworkProfile(
        BITS_PER_SECOND, ROUND_TRIP_SECONDS, FULL_BUFFER_BYTES, loss=1e-4
    ),
    "512 KiB of send buffer": NetworkProfile(BITS_PER_SECOND, ROUND_TRIP_SECONDS, 512 << 10),
}
MANY_WORKERS = 8
STREAM = "curl, one stream"
LOADER = "loader"
LOADER_WITH_MANY = f"loader, {MANY_WORKERS} workers"

UNUSED_LIMIT = 0.10
# Beyond the variation from run to run.
WORKERS_LIMIT = 1.05


class NetworkRun(msgspec.Struct, frozen=True):
    """What one client took over one network."""

    profile: str
    client: str
    share: float  # of the link's rate, while it downloaded
    wall_seconds: float
    cpu_seconds: float  # of the client and of the database


def emulation() -> str:
    """Return how this machine emulates a network, as text."""
    if link.is_possible():
        return "a link between network namespaces"
    return "a relay that delays responses, for lack of root"


def run_clients(server: Server, sample: Path, rows: int) -> list[NetworkRun]:
    """Fetch the sample over each network: by curl, and by the loader with few and with many workers."""
    runs: list[NetworkRun] = []
    for name, profile in PROFILES.items():
        if profile.loss > 0 and not link.is_possible():
            continue
        opened: AbstractContextManager[EmulatedNetwork]
        opened = (link.open_link if link.is_possible() else throttle.open_throttle)(profile, sample.parent)
        with opened as network:
            runs.append(_fetch(network, name, profile, sample))
            for client, ours in (
                (LOADER, loader("--progress=none")),
                (LOADER_WITH_MANY, loader("--progress=none", f"--workers={MANY_WORKERS}")),
            ):
                runs.append(_load(network, name, profile, client, ours, server, sample, rows))
    for each in runs:
        print(f"{each.profile}, {each.client}: {each.share:.0%} of the link", file=sys.stderr)
    return runs


def report(runs: Sequence[NetworkRun]) -> str:
    """Return tables: medians and spreads, and the goals."""
    groups: dict[tuple[str, str], list[NetworkRun]] = {}
    for each in runs:
        groups.setdefault((each.profile, each.client), []).append(each)
    rows = [
        [
            profile,
            client,
            spread([each.share * 100 for each in group], 1),
            spread([each.wall_seconds for each in group], 1),
            spread([each.cpu_seconds for each in group], 2),
        ]
        for (profile, client), group in groups.items()
    ]

    def median(profile: str, client: str, of: Callable[[NetworkRun], float]) -> float:
        return statistics.median(of(each) for each in groups[profile, client])

    goals: list[Goal] = []
    for profile in dict.fromkeys(each.profile for each in runs):
        unused = 1 - median(profile, LOADER, lambda each: each.share)
        goals.append(
            Goal(f"{profile}: share of the link that the loader leaves unused", UNUSED_LIMIT, unused)
        )
        measures: list[tuple[str, Callable[[NetworkRun], float]]] = [
            ("wall", lambda each: each.wall_seconds),
            ("CPU", lambda each: each.cpu_seconds),
        ]
        for what, of in measures:
            ratio = median(profile, LOADER_WITH_MANY, of) / median(profile, LOADER, of)
            goals.append(Goal(f"{profile}: {what}, {MANY_WORKERS} workers ÷ default", WORKERS_LIMIT, ratio))
    columns = ["network", "client", "% of the link", "wall s", "CPU s, client and database"]
    return f"{table(columns, rows)}\n\n{goals_table(goals)}"


def _fetch(network: EmulatedNetwork, name: str, profile: NetworkProfile, sample: Path) -> NetworkRun:
    """Download the file over one stream, and discard it."""
    curl = shutil.which("curl")
    if curl is None:
        sys.exit("curl is missing, the loader's reference here: install it (apt install curl).")
    command = [curl, "--fail", "--silent", "--show-error", "--output", os.devnull]
    network.traffic()
    usage = run_pipeline(
        [network.client_command([*command, f"{network.base_url}/{sample.name}"])], os.environ
    )
    share = network.traffic().bits_per_second / profile.bits_per_second
    return NetworkRun(name, STREAM, share, usage.wall_seconds, usage.cpu_seconds)


def _load(
    network: EmulatedNetwork,
    name: str,
    profile: NetworkProfile,
    client: str,
    ours: Contender,
    server: Server,
    sample: Path,
    rows: int,
) -> NetworkRun:
    def pipeline(source_url: str, database_url: str) -> list[list[str]]:
        return [network.client_command(command) for command in ours.pipeline(source_url, database_url)]

    contender = msgspec.structs.replace(ours, pipeline=pipeline)
    network.traffic()
    entry = Entry(client, contender, f"{network.base_url}/{sample.name}", sample.stat().st_size, rows)
    found = run_once(server, entry)
    share = network.traffic().bits_per_second / profile.bits_per_second
    cpu_seconds = found.client_cpu_seconds + found.database_cpu_seconds
    return NetworkRun(name, client, share, found.wall_seconds, cpu_seconds)
