"""Connections of a loader, and imports in the test's process from a file."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from pathlib import Path

import pytest

from loader.contract import Job
from loader.postgres import target_table
from loader.postgres.connection import Connection, Database
from tests.support.target import execute
from tests.support.whole_import import WholeImport

# Roles belong to the server, whose databases many tests use.
_roles = itertools.count(1)


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
def role(database_url: str) -> Generator[str]:
    """A role that may log in, and nothing else."""
    name = f"visitor_{next(_roles)}"
    execute(database_url, f"CREATE ROLE {name} LOGIN")
    yield name
    execute(database_url, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


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
