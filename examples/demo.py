"""`make demo`: starts the service, imports a sample served over HTTP, and queries the rows."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from rich.console import Console
from rich.table import Table

from examples.file_server import serve
from examples.service_process import IMPORTER, serve_imports
from loader.embedded.server import embedded_server

FOLDER = Path(__file__).parents[1] / ".build" / "demo"
QUERY = """
SELECT CASE hvfhs_license_num WHEN 'HV0003' THEN 'Uber' WHEN 'HV0005' THEN 'Lyft' ELSE hvfhs_license_num END AS company,
       count(*) AS trips,
       round(avg(trip_miles)::numeric, 2) AS miles,
       round(avg(base_passenger_fare)::numeric, 2) AS fare,
       round((sum(tips) / sum(base_passenger_fare) * 100)::numeric, 1) AS tip_percent
FROM trips GROUP BY 1 ORDER BY 2 DESC"""

console = Console(highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Print each command, and run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url", help="import this file instead of a sample")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="of sample and database (default: %(default)s)"
    )
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    data_folder = folder / "data"
    with contextlib.ExitStack() as stack:
        url, allowed_host = options.url, ""
        if url is None:
            url = stack.enter_context(_served_sample(folder, options.rows))
            allowed_host = urlsplit(url).netloc
        service_url = stack.enter_context(_service(data_folder, allowed_host))
        command = ["submit", url, "--replace", "--watch"]
        console.print(f"\n$ importer {' '.join(command)}")
        ended = subprocess.run([*IMPORTER, *command, "--server", service_url], check=False)
        if ended.returncode != 0:
            sys.exit(ended.returncode)
        with embedded_server(data_folder) as database_url:
            console.print("\n$ psql" + QUERY)
            console.print(_query_result(database_url))
    console.print("The service is stopped. The rows remain; to connect to them:")
    console.print(f"  .venv/bin/loader postgres --data-dir {os.path.relpath(data_folder)}")


@contextmanager
def _served_sample(folder: Path, rows: int) -> Generator[str]:
    sample = folder / f"sample-{rows}.csv"
    if not sample.exists():
        unfinished = sample.with_suffix(".unfinished")
        command = [sys.executable, "-m", "loader", "sample", "--rows", str(rows), str(unfinished)]
        subprocess.run(command, check=True)
        unfinished.rename(sample)
    console.print(f"{sample.name}: {sample.stat().st_size / 1e6:,.0f} MB, served over HTTP")
    with serve(folder) as base_url:
        yield f"{base_url}/{sample.name}"


@contextmanager
def _service(data_folder: Path, allowed_host: str) -> Generator[str]:
    """Run the service; yield its URL. Beyond public hosts it may fetch from the allowed one."""
    environment = {**os.environ, "IMPORTER_ALLOWED_HOSTS": allowed_host}
    environment.pop("DATABASE_URL", None)
    console.print(f"\n$ IMPORTER_ALLOWED_HOSTS={allowed_host} importer serve --data-dir {data_folder}")
    with serve_imports(data_folder, environment) as service:
        console.print(service.greeting, end="")
        yield service.url


def _query_result(database_url: str) -> Table:
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute(QUERY.encode())
        table = Table(box=None, pad_edge=False)
        for column in cursor.description or ():
            table.add_column(column.name, justify="right")
        for row in cursor:
            table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    return table


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # the context managers have stopped everything
        sys.exit(130)
