"""`make bench`: compares the loader with other programs and with the limit; each option measures something else instead.

Prints Markdown for docs/performance.md, which describes the method, and writes every run to results.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks import scaling, startup
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
from benchmarks.network import loads
from benchmarks.reports import comparison, report, scaling_report
from benchmarks.reports.report import Goal
from benchmarks.run import CLIENT_CPU, DIALECT_COLUMNS, WALL, Entry, Run, median, run_alternating, runs_table
from benchmarks.samples import DIALECTS, in_dialect, make_sample, rows_of, warm
from benchmarks.server import WAL_LEVELS, Server, scratch_server
from benchmarks.service import report as service
from examples.file_server import serve

FOLDER = Path(__file__).parents[1] / ".build" / "bench"
# Shared by file server, client and Postgres, as on a small machine.
CORES = 2
# Enough to compile the kernel and to show within a second that each contender works.
WARM_UP_ROWS = 1000
SCALING_GIGABYTES = (1, 3, 10, 30)
# Larger files repeat the rows of one this large, which takes less disk and stays in the page cache.
REPEATED_GIGABYTES = 1.0
# A thousand GETs, so that the 99th percentile is the tenth slowest.
GET_SECONDS = 20.0

DIALECT_LIMIT = 2.0

# Measures; returns the runs, and Markdown.
Benchmark = Callable[["Bench"], tuple[Sequence[msgspec.Struct], str]]


class Bench:
    """A PostgreSQL server, and sample files served over HTTP."""

    def __init__(self, folder: Path, server: Server, base_url: str) -> None:
        self.folder = folder
        self.server = server
        self._base_url = base_url

    def entry(self, label: str, contender: Contender, source: Path, rows: int) -> Entry:
        """Return a contender with a file, after reading it into the page cache."""
        warm(source)
        return Entry(label, contender, f"{self._base_url}/{source.name}", source.stat().st_size, rows)

    def repeated(self, label: str, contender: Contender, gigabytes: float) -> Entry:
        """Return a contender with a file of about that size, made of a smaller one's rows, repeated."""
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

    def warm_up(self, *contenders: Contender) -> None:
        """Have each contender load a few rows, unmeasured."""
        sample = make_sample(self.folder, WARM_UP_ROWS)
        entries = [self.entry(f"{each.name}, first", each, sample, WARM_UP_ROWS) for each in contenders]
        run_alternating(self.server, entries, repeats=1)


def main() -> None:
    """Measure what the options name; print and save the results."""
    options = _options()
    if sys.platform != "linux":
        sys.exit("The benchmarks need Linux: they limit cores, and read /proc.")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # child processes inherit it
    samples: Path = options.folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    with scratch_server(options.folder, options.wal_level) as server, serve(samples) as base_url:
        bench = Bench(samples, server, base_url)
        found = report.conditions(server.version, options.wal_level)
        print(report.conditions_text(found))
        for name, measure in _benchmarks(options).items():
            runs, text = measure(bench)
            report.save(options.folder / "results.json", name, found, runs)
            print(f"\n{text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=7_000_000, help="rows of the file (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender (default %(default)s)")
    parser.add_argument(
        "--dialects", action="store_true", help="the loader with the same rows in other dialects"
    )
    parser.add_argument(
        "--scaling",
        nargs="*",
        type=float,
        metavar="GB",
        help=f"the loader with files of increasing size (default {SCALING_GIGABYTES})",
    )
    parser.add_argument("--startup", action="store_true", help="the loader with a file of a megabyte")
    parser.add_argument("--network", action="store_true", help="the loader over slow networks")
    parser.add_argument(
        "--service", action="store_true", help="the service, and loads under it against the command line"
    )
    parser.add_argument(
        "--get-seconds",
        type=float,
        default=GET_SECONDS,
        help="duration of the GETs (default %(default)s)",
    )
    parser.add_argument(
        "--wal-level", choices=WAL_LEVELS, default="minimal", help="of PostgreSQL (default %(default)s)"
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=PEERS,
        help="a peer to leave out; repeatable",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        help="for the server, samples and results (default %(default)s)",
    )
    return parser.parse_args()


def _benchmarks(options: argparse.Namespace) -> dict[str, Benchmark]:
    benchmarks: dict[str, Benchmark] = {}
    if options.dialects:
        benchmarks["dialects"] = lambda bench: _compare_dialects(bench, options.rows, options.runs)
    if options.scaling is not None:
        sizes = sorted(options.scaling or SCALING_GIGABYTES)
        benchmarks["scaling"] = lambda bench: _measure_scaling(bench, sizes, options.runs)
    if options.startup:
        benchmarks["startup"] = lambda bench: _measure_startup(bench, options.runs)
    if options.network:
        benchmarks["network"] = lambda bench: _measure_network(bench, options.rows, options.runs)
    if options.service:
        benchmarks["service"] = lambda bench: _measure_service(
            bench, options.rows, options.runs, options.get_seconds
        )
    return benchmarks or {
        f"contenders, wal_level={options.wal_level}": lambda bench: _compare_contenders(
            bench, options.rows, options.runs, options.wal_level, options.skip
        )
    }


def _compare_contenders(
    bench: Bench, rows: int, repeats: int, wal_level: str, skipped: Sequence[str]
) -> tuple[list[Run], str]:
    first, sample = make_sample(bench.folder, WARM_UP_ROWS), make_sample(bench.folder, rows)
    contenders = [curl_psql(), loader("--progress=none"), the_limit(sample), adbc(), duckdb(), pgloader()]
    contenders = [each for each in contenders if each.name not in skipped]
    available = [each for each in contenders if isinstance(each, Contender)]
    bench.warm_up(*(each for each in available if each.name != comparison.LIMIT), the_limit(first))
    entries = [bench.entry(each.name, each, sample, rows) for each in available]
    runs = run_alternating(bench.server, entries, repeats)
    title = f"### The loader and others, wal_level={wal_level}: {_size(entries[0], repeats)}"
    settings = [f"{each.name}: {each.settings}" for each in available]
    absent = [each for each in contenders if isinstance(each, Absent)]
    return runs, f"{title}\n\n{comparison.report(runs, wal_level, settings, absent)}"


def _compare_dialects(bench: Bench, rows: int, repeats: int) -> tuple[list[Run], str]:
    contender = loader("--progress=none")
    bench.warm_up(contender)
    sample = make_sample(bench.folder, rows)
    entries = [bench.entry("clean", contender, sample, rows)]
    entries += [bench.entry(dialect, contender, in_dialect(sample, dialect), rows) for dialect in DIALECTS]
    runs = run_alternating(bench.server, entries, repeats)
    goals = [
        Goal(
            f"{metric.title}, {dialect} ÷ clean",
            DIALECT_LIMIT,
            median(runs, dialect, metric) / median(runs, "clean", metric),
        )
        for metric in (WALL, CLIENT_CPU)
        for dialect in DIALECTS
    ]
    title = f"### Dialects: {_size(entries[0], repeats)}"
    return runs, "\n\n".join([title, runs_table(runs, DIALECT_COLUMNS), report.goals_table(goals)])


def _measure_scaling(
    bench: Bench, gigabytes: Sequence[float], repeats: int
) -> tuple[list[scaling.ScalingRun], str]:
    bench.warm_up(scaling.CONTENDER)
    free_gigabytes = shutil.disk_usage(bench.folder).free / 1e9 - scaling.SPARE_GB
    fitting = [size for size in gigabytes if size * scaling.STORED_GB_PER_GB <= free_gigabytes]
    entries = [bench.repeated(f"{size:g} GB", scaling.CONTENDER, size) for size in fitting]
    runs: list[scaling.ScalingRun] = []
    for number in range(repeats):
        for entry in entries:
            runs.append(scaling.run_once(bench.server, entry))
            print(f"run {number + 1}, {entry.label}: {runs[-1].loading.wall_seconds:.2f} s", file=sys.stderr)
    title = f"### Scaling: {_spread_of(repeats)}"
    if skipped := [f"{size:g} GB" for size in gigabytes if size not in fitting]:
        title += f"; no disk space for {' and '.join(skipped)}"
    return runs, f"{title}\n\n{scaling_report.report(runs)}"


def _measure_startup(bench: Bench, repeats: int) -> tuple[list[startup.StartupRun], str]:
    bench.warm_up(startup.CONTENDER)
    rows = rows_of(startup.FILE_BYTES)
    entry = bench.entry("start", startup.CONTENDER, make_sample(bench.folder, rows), rows)
    runs = [startup.run_once(bench.server, entry) for _ in range(repeats)]
    imports = startup.import_milliseconds(bench.server, entry)
    return runs, f"### Start-up: {_size(entry, repeats)}\n\n{startup.report(runs, imports)}"


def _measure_network(bench: Bench, rows: int, repeats: int) -> tuple[list[loads.NetworkRun], str]:
    contender = loader("--progress=none")
    bench.warm_up(contender)
    sample = make_sample(bench.folder, rows)
    entry = bench.entry("network", contender, sample, rows)
    runs: list[loads.NetworkRun] = []
    for _ in range(repeats):
        runs += loads.run_clients(bench.server, sample, rows)
    title = f"### Slow networks: {_size(entry, repeats)}; {loads.emulation()}"
    return runs, f"{title}\n\n{loads.report(runs)}"


def _measure_service(
    bench: Bench, rows: int, repeats: int, get_seconds: float
) -> tuple[list[service.ServiceRun], str]:
    contender = loader("--progress=none")
    bench.warm_up(contender)
    entry = bench.entry("service", contender, make_sample(bench.folder, rows), rows)
    runs: list[service.ServiceRun] = []
    for number in range(repeats):
        runs.append(service.run_once(bench.server, entry, bench.folder.parent, seconds=get_seconds))
        print(f"run {number + 1}, {entry.label}", file=sys.stderr)
    return runs, f"### The service: {_size(entry, repeats)}\n\n{service.report(runs)}"


def _size(entry: Entry, repeats: int) -> str:
    return f"{entry.rows:,} rows, {entry.source_bytes / 1e6:,.0f} MB, {_spread_of(repeats)}"


def _spread_of(repeats: int) -> str:
    return f"median (min-max) of {repeats}"


if __name__ == "__main__":
    main()
