"""Loads a CSV as in ADBC's recipes: pyarrow's streaming reader over HTTP into adbc_ingest.

Runs in the peers' environment (benchmarks/requirements.txt), which lacks this project.
Source: https://arrow.apache.org/adbc/current/python/recipe/postgresql.html
"""

# pyright runs without pyarrow and the driver.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import json
import sys
import urllib.request

import pyarrow
from adbc_driver_postgresql import dbapi
from pyarrow import csv

ARROW_TYPES = {
    "text": pyarrow.string(),
    "timestamp without time zone": pyarrow.timestamp("us"),
    "integer": pyarrow.int32(),
    "bigint": pyarrow.int64(),
    "double precision": pyarrow.float64(),
}


def main(source_url: str, database_url: str, columns: dict[str, str]) -> None:
    """Load the file into a new table; `columns` maps names to Postgres types."""
    with urllib.request.urlopen(source_url) as source, dbapi.connect(database_url) as connection:  # noqa: S310 - the benchmark's own server
        reader = csv.open_csv(
            source,
            read_options=csv.ReadOptions(column_names=list(columns), skip_rows=1),
            convert_options=csv.ConvertOptions(
                column_types={name: ARROW_TYPES[kind] for name, kind in columns.items()},
                strings_can_be_null=True,
            ),
        )
        with connection.cursor() as cursor:
            cursor.adbc_ingest("trips", reader, mode="create")
        connection.commit()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
