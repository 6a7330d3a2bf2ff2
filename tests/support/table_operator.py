"""Imports in the test's process, of small files with some parts each, and an operator's SQL on their tables."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import msgspec
import psycopg
import pytest

from loader.cli import commands
from loader.contract import Failed, FailureCode, Job, Message, Published, Receipt
from loader.limits import Limits
from loader.pipeline.run import run
from tests.support.target import create_trips, execute

# Parts of 100 kB.
SMALL = Limits(segment_bytes=64 * 1024, one_part_bytes=0, min_part_bytes=100_000)


class Operator:
    """An operator with the loader's commands and psql, on one database."""

    def __init__(self, database_url: str, folder: Path, sample: bytes) -> None:
        self.database_url = database_url
        self.folder = folder
        self.sample = sample
        self.messages: list[Message] = []

    def file(self, name: str = "january", rows_bytes: int = 400_000) -> str:
        """Return the path of a file with the beginning of the sample, which is written once."""
        path = self.folder / f"{name}.csv"
        if not path.exists():
            path.write_bytes(self.sample[: self.sample.index(b"\n", rows_bytes) + 1])
        return str(path)

    def run(self, job: Job, limits: Limits = SMALL) -> Published | Failed:
        """Run a job."""
        self.messages.clear()
        return run(
            job,
            lambda: nullcontext(self.database_url),
            self.messages.append,
            is_supervised=False,
            limits=limits,
        )

    def load(self, name: str = "january", mode: str = "append", *, force: bool = False) -> Receipt:
        """Import a file."""
        end = self.run(
            Job(source=self.file(name), mode="replace" if mode == "replace" else "append", force=force)
        )
        assert isinstance(end, Published), end
        return end.receipt

    def stage(self, name: str = "january") -> str:
        """Load a file and prevent its publish; return the import's id."""
        create_trips(self.database_url)
        with psycopg.connect(self.database_url) as other:
            other.execute("LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE")
            limits = msgspec.structs.replace(SMALL, trips_lock_seconds=0.1)
            end = self.run(Job(source=self.file(name)), limits)
        assert isinstance(end, Failed), end
        assert (end.failure.code, end.staging) == (FailureCode.TABLE_LOCKED, "kept")
        assert end.import_id is not None
        return end.import_id

    def sql(self, statements: str) -> None:
        """Run statements, as psql does."""
        execute(self.database_url, statements)

    def count(self, table: str) -> int:
        """Return the number of a table's rows; -1 if there is no such table."""
        with psycopg.connect(self.database_url) as connection:
            if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
                return -1
            return int(str(connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]))

    def tables(self) -> set[str]:
        """Return the names of the tables of imports and parts in the loader's schema."""
        with psycopg.connect(self.database_url) as connection:
            found = connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'loader'::regnamespace AND relkind IN ('r', 'p')"
                " AND relname ~ '^import_'"
            ).fetchall()
        return {str(name) for (name,) in found}

    def states(self, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str | None]]:
        """Return the state and the table of each import, by id, as `loader imports --json` shows them."""
        capsys.readouterr()
        commands.imports(self.database_url, as_json=True)
        lines = capsys.readouterr().out.splitlines()
        return {entry["id"]: (entry["state"], entry["table"]) for entry in map(json.loads, lines)}
