"""`make demo`: makes a sample, serves it over HTTP, imports it into the embedded PostgreSQL, and asks it a question."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from file_server import serve
from rich.console import Console
from rich.table import Table

from loader.embedded import embedded_server

FOLDER = Path(__file__).parents[1] / ".build" / "demo"
LOADER = [sys.executable, "-m", "loader"]
QUESTION = """
SELECT CASE hvfhs_license_num WHEN 'HV0003' THEN 'Uber' WHEN 'HV0005' THEN 'Lyft' ELSE hvfhs_license_num END AS company,
       count(*) AS trips,
       round(avg(trip_miles)::numeric, 2) AS miles,
       round(avg(base_passenger_fare)::numeric, 2) AS fare,
       round((sum(tips) / sum(base_passenger_fare) * 100)::numeric, 1) AS tip_percent
FROM trips GROUP BY 1 ORDER BY 2 DESC"""


def main() -> None:
    """Tell what is done, and do it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url", help="import this file instead of a sample")
    options = parser.parse_args()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with embedded_server(FOLDER / "data") as database_url, _source(options, console) as url:
        console.print(f"\n$ loader run {url} --mode replace")
        environment = {**os.environ, "DATABASE_URL": database_url}
        ended = subprocess.run([*LOADER, "run", url, "--mode", "replace"], env=environment, check=False)
        if ended.returncode != 0:
            sys.exit(ended.returncode)
        console.print("\n$ psql" + QUESTION)
        console.print(_answer(database_url))
    console.print("The rows stay there; to look around:")
    console.print(f"  .venv/bin/loader postgres --data-dir {FOLDER.relative_to(Path.cwd())}/data")


@contextmanager
def _source(options: argparse.Namespace, console: Console) -> Generator[str]:
    if options.url:
        yield options.url
        return
    sample = FOLDER / f"sample-{options.rows}.csv"
    if not sample.exists():
        console.print(f"$ loader sample --rows {options.rows} {sample.name}")
        unfinished = sample.with_suffix(".unfinished")
        subprocess.run([*LOADER, "sample", "--rows", str(options.rows), str(unfinished)], check=True)
        unfinished.rename(sample)
    console.print(f"{sample.name}: {sample.stat().st_size / 1e6:,.0f} MB, served over HTTP")
    with serve(FOLDER) as base_url:
        yield f"{base_url}/{sample.name}"


def _answer(database_url: str) -> Table:
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute(QUESTION.encode())
        table = Table(box=None, pad_edge=False)
        for column in cursor.description or ():
            table.add_column(column.name, justify="right")
        for row in cursor:
            table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    return table


if __name__ == "__main__":
    main()
