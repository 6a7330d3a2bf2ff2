"""A loaded file equals the same file through PostgreSQL's own COPY ... CSV, in every dialect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from loader.cli.sample import COLUMN_COUNT
from loader.schema import COLUMNS, POSTGRES_TYPES
from tests.support.dialects import COMPRESSIONS, DIALECTS, newest_layout
from tests.support.http_server import HttpServer
from tests.support.loader_process import LoaderProcess, assert_nothing_is_left, query

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

Dialect = Callable[[bytes], bytes]
ODD_ROWS = (
    # quotes in mid-field, doubled quotes, a newline and a comma within quotes, quoted empty, backslashes, spaces
    b'HV"0003",B03404,"B ""03"" 404",2024-01-01 00:21:47,,2024-01-01 00:28:08,2024-01-01 01:05:39,161,158,'
    b'2.83,2251,45.61,0.0,1.25,4.05,2.75,0.0,0.0,40.18,"N\nN",",",,\\.,\\N\n'
    b',"",,2024-02-29 24:00:00,2024-12-31 23:59:60,2024-01-01 1:2:3.4567891,infinity, 161 ,+158,'
    b".5,-9223372036854775808,1e-300,-0.0,NaN,-Infinity,5e-324,1.7976931348623157e308,123456789012345678901234567890,"
    b"0.1e1,N,N, ,N,\xc3\xa9\n"
)


def copy_in(database_url: str, csv: bytes, column_count: int) -> None:
    """Load a file into the table `plain` by the server's own COPY."""
    columns = ", ".join(f"{column.name} {POSTGRES_TYPES[column.kind]}" for column in COLUMNS)
    names = ", ".join(column.name for column in COLUMNS[:column_count])
    with psycopg.connect(database_url) as connection:
        connection.execute(f"CREATE TABLE plain ({columns})".encode())
        statement = f"COPY plain ({names}) FROM STDIN (FORMAT csv, HEADER)".encode()
        with connection.cursor().copy(statement) as copy:
            copy.write(csv)


def differences(database_url: str) -> list[tuple[object, ...]]:
    """Return rows, as text, that one of the tables has more often than the other."""
    names = ", ".join(f"{column.name}::text" for column in COLUMNS)
    one, other = f"SELECT {names} FROM trips", f"SELECT {names} FROM plain"
    return query(database_url, f"({one} EXCEPT ALL {other}) UNION ALL ({other} EXCEPT ALL {one}) LIMIT 5")


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.__name__)
def test_a_loaded_file_equals_the_same_file_loaded_by_copy(
    dialect: Dialect, sample: bytes, database_url: str, tmp_path: Path
) -> None:
    csv = dialect(sample)
    with HttpServer(csv) as server:
        receipt = LoaderProcess(tmp_path, "run", server.url, database_url=database_url, small=True).receipt()
    assert receipt.rows_published == sample.count(b"\n") - 1
    assert receipt.data_bytes == len(csv)
    copy_in(database_url, csv, csv.split(b"\n")[0].count(b",") + 1)
    assert differences(database_url) == []
    assert_nothing_is_left(database_url)


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda compression: compression.__name__)
def test_a_compressed_file_equals_the_plain_one(
    compression: Dialect, sample: bytes, database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "a file without a telling name"
    path.write_bytes(compression(sample))
    receipt = LoaderProcess(tmp_path, "run", str(path), database_url=database_url, small=True).receipt()
    assert (receipt.source_bytes, receipt.data_bytes) == (path.stat().st_size, len(sample))
    copy_in(database_url, sample, COLUMN_COUNT)
    assert differences(database_url) == []


def test_odd_rows_equal_the_same_rows_loaded_by_copy(
    sample: bytes, database_url: str, tmp_path: Path
) -> None:
    header, *rows = sample.splitlines(keepends=True)
    csv = header + ODD_ROWS + b"".join(rows[:50]) + ODD_ROWS
    path = tmp_path / "odd.csv"
    path.write_bytes(csv)
    receipt = LoaderProcess(tmp_path, "run", str(path), database_url=database_url).receipt()
    assert receipt.rows_published == 54
    copy_in(database_url, csv, COLUMN_COUNT)
    assert differences(database_url) == []


def test_a_file_of_the_older_layout_has_nulls_in_the_newer_column(
    sample: bytes, database_url: str, tmp_path: Path
) -> None:
    for name, csv in (("new.csv", newest_layout(sample)), ("old.csv", sample)):
        (tmp_path / name).write_bytes(csv)
        LoaderProcess(tmp_path, "run", str(tmp_path / name), database_url=database_url).receipt()
    counts = query(
        database_url,
        "SELECT count(*), count(cbd_congestion_fee) FROM trips GROUP BY import_key ORDER BY import_key",
    )
    rows = sample.count(b"\n") - 1
    assert counts == [(rows, rows - (rows + 1) // 4), (rows, 0)]
