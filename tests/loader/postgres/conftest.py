"""Connections of a loader, and imports in the test's process from a file."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from loader.contract import Job
from loader.postgres import target_table
from loader.postgres.connection import Connection, Database
from tests.support.whole_import import WholeImport


@pytest.fixture
def whole_import(database_url: str, sample: bytes) -> WholeImport:
    return WholeImport(database_url, sample)


@pytest.fixture
def source(tmp_path: Path, sample: bytes) -> Job:
    """A job with the sample as a file."""
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    return Job(str(path))


@pytest.fixture
def connection(database_url: str) -> Generator[Connection]:
    """A loader's connection to a database with trips and a ledger."""
    with Database(database_url).connection("test") as connection:
        target_table.prepare(connection)
        yield connection


@pytest.fixture
def other(database_url: str) -> Generator[Connection]:
    """The connection of another session, which waits for no lock."""
    with Database(database_url).connection("other") as other:
        other.execute("SET lock_timeout = '50ms'")
        yield other
