"""`make bench`: the loader, its peers and the limit side by side; with --dialects and --growth against itself.

With --service: the service, and the loader under it against the loader by itself.

Prints Markdown for docs/performance.md, which says how it is measured, and puts every trial into results.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks import run as trial
from benchmarks import scaling as growth
from benchmarks import startup
from benchmarks.contenders.contenders import (
    PEERS,
    Absent,
    Contender,
    adbc,
    curl_psql,
    duckdb,
    loader,
    pgloader,
    the_limit,
)
from benchmarks.network import loads as network
from benchmarks.reports import comparison as contest
from benchmarks.reports import report
from benchmarks.reports import scaling_report as growth_report
from benchmarks.reports.report import Goal
from benchmarks.run import Entry, Trial
from benchmarks.samples import DIALECTS, in_dialect, make_sample, rows_of, warm
from benchmarks.server import WAL_LEVELS, Server, scratch_server
from benchmarks.service import report as service
from examples.file_server import serve

FOLDER = Path(__file__).parents[1] / ".build" / "bench"
# File server, client and Postgres share them, as on a small machine.
CORES = 2
# Compiles the kernel, and shows in a second that all contenders are able to.
FIRST_ROWS = 1000
GROWTH_GIGABYTES = (1, 3, 10, 30)
# Larger files repeat the rows of one: they take no more room on the disk, and come from memory.
REPEATED_GIGABYTES = 1.0
# A thousand GETs: the 99th percentile is the tenth slowest.
GET_SECONDS = 20.0

DIALECT_LIMIT = 2.0

# Measures, and returns the trials and what is to be printed of them.
Part = Callable[["Bench"], tuple[Sequence[msgspec.Struct], str]]


class Bench:
    """Where it is measured: a server, and files that are served over HTTP."""

    def __init__(self, folder: Path, server: Server, base_url: str) -> None:
        self.folder = folder
        self.server = server
        self._base_url = base_url

    def entry(self, label: str, contender: Contender, source: Path, rows: int) -> Entry:
        """Return a contender with a file, which is in memory by then as far as it fits."""
        warm(source)
        return Entry(label, contender, f"{self._base_url}/{source.name}", source.stat().st_size, rows)

    def repeated(self, label: str, contender: Contender, gigabytes: float) -> Entry:
        """Return a contender with a file of about that size, which repeats the rows of a smaller one."""
        times = max(1, round(gigabytes / REPEATED_GIGABYTES))
        sample = make_sample(self.folder, rows_of(gigabytes * 1e9 / times))
        once = self.entry(label, contender, sample, rows_of(gigabytes * 1e9 / times))
        with sample.open("rb") as file:
            header_bytes = len(file.readline())
        return msgspec.structs.replace(
            once,
            source_url=f"{once.source_url}?times={times}",
            source_bytes=header_bytes + (once.source_bytes - header_bytes) * times,
            rows=once.rows * times,
        )

    def try_first(self, *contenders: Contender) -> None:
        """Let all load a few rows, which nobody measures."""
        sample = make_sample(self.folder, FIRST_ROWS)
        entries = [self.entry(f"{each.name}, first", each, sample, FIRST_ROWS) for each in contenders]
        trial.alternate(self.server, entries, runs=1)


def main() -> None:
    """Measure what is asked for, print and keep it."""
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # all that we start is born with it
    samples: Path = options.folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    with scratch_server(options.folder, options.wal_level) as server, serve(samples) as base_url:
        bench = Bench(samples, server, base_url)
        found = report.conditions(server.version, options.wal_level)
        print(report.conditions_text(found))
        for part, measure in _parts(options).items():
            trials, text = measure(bench)
            report.keep(options.folder / "results.json", part, found, trials)
            print(f"\n{text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=7_000_000, help="of the file (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="trials of each contender (default %(default)s)")
    parser.add_argument(
        "--dialects", action="store_true", help="the loader with the same rows in other dialects"
    )
    parser.add_argument(
        "--growth",
        nargs="*",
        type=float,
        metavar="GB",
        help=f"the loader with files of growing size (default {GROWTH_GIGABYTES})",
    )
    parser.add_argument("--startup", action="store_true", help="the loader with a file of a megabyte")
    parser.add_argument("--network", action="store_true", help="the loader over slow ways")
    parser.add_argument("--service", action="store_true", help="the service, and the loader under it")
    parser.add_argument(
        "--get-seconds",
        type=float,
        default=GET_SECONDS,
        help="how long the service is asked where imports stand (default %(default)s)",
    )
    parser.add_argument(
        "--wal-level", choices=WAL_LEVELS, default="minimal", help="of the server (default %(default)s)"
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=PEERS,
        help="a peer that takes too long; repeatable",
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="for server, samples, results (default %(default)s)"
    )
    return parser.parse_args()


def _parts(options: argparse.Namespace) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    if options.dialects:
        parts["dialects"] = lambda bench: _compare_dialects(bench, options.rows, options.runs)
    if options.growth is not None:
        sizes = sorted(options.growth or GROWTH_GIGABYTES)
        parts["growth"] = lambda bench: _measure_growth(bench, sizes, options.runs)
    if options.startup:
        parts["startup"] = lambda bench: _measure_startup(bench, options.runs)
    if options.network:
        parts["network"] = lambda bench: _measure_network(bench, options.rows, options.runs)
    if options.service:
        parts["service"] = lambda bench: _measure_service(
            bench, options.rows, options.runs, options.get_seconds
        )
    return parts or {
        f"contenders, wal_level={options.wal_level}": lambda bench: _compare_contenders(
            bench, options.rows, options.runs, options.wal_level, options.skip
        )
    }


def _compare_contenders(
    bench: Bench, rows: int, runs: int, wal_level: str, skipped: Sequence[str]
) -> tuple[list[Trial], str]:
    first, sample = make_sample(bench.folder, FIRST_ROWS), make_sample(bench.folder, rows)
    everyone = [curl_psql(), loader("--progress=none"), the_limit(sample), adbc(), duckdb(), pgloader()]
    everyone = [each for each in everyone if each.name not in skipped]
    able = [each for each in everyone if isinstance(each, Contender)]
    bench.try_first(*(each for each in able if each.name != contest.LIMIT), the_limit(first))
    entries = [bench.entry(each.name, each, sample, rows) for each in able]
    trials = trial.alternate(bench.server, entries, runs)
    title = f"### The loader and others, wal_level={wal_level}: {_size(entries[0], runs)}"
    settings = [f"{each.name}: {each.settings}" for each in able]
    absent = [each for each in everyone if isinstance(each, Absent)]
    return trials, f"{title}\n\n{contest.report(trials, wal_level, settings, absent)}"


def _compare_dialects(bench: Bench, rows: int, runs: int) -> tuple[list[Trial], str]:
    ours = loader("--progress=none")
    bench.try_first(ours)
    sample = make_sample(bench.folder, rows)
    entries = [bench.entry("clean", ours, sample, rows)]
    entries += [bench.entry(dialect, ours, in_dialect(sample, dialect), rows) for dialect in DIALECTS]
    trials = trial.alternate(bench.server, entries, runs)
    goals = [
        Goal(
            f"{measure.title}, {dialect} ÷ clean",
            DIALECT_LIMIT,
            trial.median(trials, dialect, measure) / trial.median(trials, "clean", measure),
        )
        for measure in (trial.WALL, trial.CLIENT_CPU)
        for dialect in DIALECTS
    ]
    title = f"### Dialects: {_size(entries[0], runs)}"
    return trials, "\n\n".join([title, trial.table(trials, trial.DIALECT_COLUMNS), report.goals_table(goals)])


def _measure_growth(
    bench: Bench, gigabytes: Sequence[float], runs: int
) -> tuple[list[growth.GrowthTrial], str]:
    bench.try_first(growth.CONTENDER)
    free_gigabytes = shutil.disk_usage(bench.folder).free / 1e9 - growth.SPARE_GB
    fitting = [size for size in gigabytes if size * growth.STORED_GB_A_GB <= free_gigabytes]
    entries = [bench.repeated(f"{size:g} GB", growth.CONTENDER, size) for size in fitting]
    trials: list[growth.GrowthTrial] = []
    for run in range(runs):
        for entry in entries:
            trials.append(growth.try_once(bench.server, entry))
            print(f"run {run + 1}, {entry.label}: {trials[-1].loading.wall_seconds:.2f} s", file=sys.stderr)
    title = f"### Growth: {_times(runs)}"
    if left := [f"{size:g} GB" for size in gigabytes if size not in fitting]:
        title += f"; the disk has no room for {' and '.join(left)}"
    return trials, f"{title}\n\n{growth_report.report(trials)}"


def _measure_startup(bench: Bench, runs: int) -> tuple[list[startup.StartTrial], str]:
    bench.try_first(startup.CONTENDER)
    rows = rows_of(startup.FILE_BYTES)
    entry = bench.entry("start", startup.CONTENDER, make_sample(bench.folder, rows), rows)
    trials = [startup.try_once(bench.server, entry) for _ in range(runs)]
    imports = startup.import_milliseconds(bench.server, entry)
    return trials, f"### Start-up: {_size(entry, runs)}\n\n{startup.report(trials, imports)}"


def _measure_network(bench: Bench, rows: int, runs: int) -> tuple[list[network.NetworkTrial], str]:
    ours = loader("--progress=none")
    bench.try_first(ours)
    sample = make_sample(bench.folder, rows)
    entry = bench.entry("network", ours, sample, rows)
    trials: list[network.NetworkTrial] = []
    for _ in range(runs):
        trials += network.try_once(bench.server, sample, rows)
    title = f"### Slow networks: {_size(entry, runs)}; {network.means()}"
    return trials, f"{title}\n\n{network.report(trials)}"


def _measure_service(
    bench: Bench, rows: int, runs: int, get_seconds: float
) -> tuple[list[service.ServiceTrial], str]:
    ours = loader("--progress=none")
    bench.try_first(ours)
    entry = bench.entry("service", ours, make_sample(bench.folder, rows), rows)
    trials: list[service.ServiceTrial] = []
    for run in range(runs):
        trials.append(service.try_once(bench.server, entry, bench.folder.parent, seconds=get_seconds))
        print(f"run {run + 1}, {entry.label}", file=sys.stderr)
    return trials, f"### The service: {_size(entry, runs)}\n\n{service.report(trials)}"


def _size(entry: Entry, runs: int) -> str:
    return f"{entry.rows:,} rows, {entry.source_bytes / 1e6:,.0f} MB, {_times(runs)}"


def _times(runs: int) -> str:
    return f"median (least-most) of {runs}"


if __name__ == "__main__":
    main()
