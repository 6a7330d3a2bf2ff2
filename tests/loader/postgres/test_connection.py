"""The settings of the loader's sessions."""

from __future__ import annotations

import pytest

from loader.postgres.connection import Database, write_early
from tests.support.postgres_server import own_server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("wal_level", "early"), [("minimal", "2MB"), ("replica", "0")])
def test_pages_are_written_early_where_the_commit_would_write_them(wal_level: str, early: str) -> None:
    settings = {"wal_level": wal_level, "max_wal_senders": "0"}
    with own_server(settings=settings) as own, Database(own.url).connection("test") as connection:
        write_early(connection)
        assert connection.execute("SHOW backend_flush_after").fetchall() == [(early,)]
