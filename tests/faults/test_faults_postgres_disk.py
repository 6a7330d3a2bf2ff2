"""A full disk of the database: noticed within a block, its space free at once, later imports unharmed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from loader.contract import FailureCode, ProgressMessage
from tests.conftest import SAMPLE_ROWS
from tests.support.http_server import HttpServer
from tests.support.loader_process import Loaders, assert_nothing_is_left, query, row_count, wait_for
from tests.support.postgres_server import own_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or os.getuid() != 0, reason="only root can mount a tmpfs, on Linux"
    ),
]


@contextmanager
def small_disk(size: str) -> Generator[Path]:
    """Yield a folder that every user may write to, on a file system of this size."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


def used_bytes(folder: Path) -> int:
    told = os.statvfs(folder)
    return (told.f_blocks - told.f_bfree) * told.f_frsize


@pytest.fixture
def tablespace(database_url: str) -> Generator[Path]:
    """The folder of a tablespace of 1.5 MiB, for all new tables of the test's database."""
    with small_disk("1500k") as folder, psycopg.connect(database_url, autocommit=True) as connection:
        (folder / "data").mkdir(mode=0o700)
        connection.execute(f"CREATE TABLESPACE small LOCATION '{folder}/data'".encode())
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET default_tablespace = small".encode())
        yield folder
        connection.execute("DROP TABLE trips; DROP SCHEMA loader CASCADE")
        connection.execute("DROP TABLESPACE small")


def test_a_full_disk_is_noticed_within_a_block_and_keeps_what_is_committed(
    tablespace: Path, loaders: Loaders, server: HttpServer
) -> None:
    empty = used_bytes(tablespace)
    loader = loaders.start("run", server.url, "--workers", "1")
    last = loader.failure()
    assert (last.failure.code, last.staging) == (FailureCode.OUT_OF_SPACE, "kept")
    staged = query(loaders.database_url, "SELECT sum(pg_total_relation_size(table_oid)) FROM loader.part")
    assert used_bytes(tablespace) < empty + int(str(staged[0][0])) + 300_000  # of catalogs and the ledger
    sent = [each.progress.rows_loaded for each in loader.messages() if isinstance(each, ProgressMessage)]
    assert max(sent) < SAMPLE_ROWS
    subprocess.run(["mount", "-o", "remount,size=20m", tablespace], check=True)
    receipt = loaders.start("run", server.url).receipt()
    assert (receipt.attempts, receipt.rows_published) == (2, row_count(loaders.database_url))
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_full_disk_of_the_write_ahead_log_harms_no_import(
    server: HttpServer, sample: bytes, tmp_path: Path
) -> None:
    server.content = (
        sample + 5 * sample[sample.index(b"\n") + 1 :]
    )  # more than the log's old segments have room for
    with small_disk("20m") as folder:
        (folder / "wal").mkdir(mode=0o700)
        options = ("--encoding=UTF8", "--locale=C", "--wal-segsize=1", f"--waldir={folder}/wal")
        settings = {"wal_level": "replica", "restart_after_crash": "off"}
        with own_server(settings=settings, options=options) as own:
            filler = folder / "filler"
            found = os.statvfs(folder)
            filler.write_bytes(bytes(found.f_bfree * found.f_frsize))
            loaders = Loaders(tmp_path, own.url)
            loader = loaders.start("run", server.url)
            wait_for("the server to crash", lambda: not own.is_running())
            filler.unlink()
            own.start()
            if loader.wait() != 0:  # the loader's own session got the error
                last = loader.failure()
                assert last.failure.code is FailureCode.OUT_OF_SPACE
                loader = loaders.start("run", server.url)
            assert loader.receipt().rows_published == row_count(own.url)
            assert_nothing_is_left(own.url)
