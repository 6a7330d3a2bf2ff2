"""Loads a CSV by DuckDB: read_csv with the extension httpfs, into a table with the extension postgres.

Both extensions come as Python packages, since DuckDB would download them at run time. Runs in the peers' environment
(benchmarks/requirements.txt), which lacks this project.
Source: https://duckdb.org/docs/stable/core_extensions/postgres
"""

# pyright runs without DuckDB.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import json
import sys
from importlib import resources

import duckdb

EXTENSIONS = ("httpfs", "postgres_scanner")


def main(source_url: str, database_url: str, columns: dict[str, str]) -> None:
    """Load the file into a new table; `columns` maps names to Postgres types."""
    connection = duckdb.connect()
    for extension in EXTENSIONS:
        folder = resources.files(f"duckdb_extension_{extension}") / "extensions" / f"v{duckdb.__version__}"
        connection.execute(f"LOAD '{folder}/{extension}.duckdb_extension'")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(f"ATTACH '{database_url}' AS target (TYPE postgres)")
    connection.execute(
        "CREATE TABLE target.trips AS SELECT * FROM read_csv(?, header = true, columns = ?)",
        [source_url, columns],
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
