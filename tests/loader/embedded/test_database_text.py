"""How a database is shown: name, host and port, or the embedded server's folder, and no user."""

from __future__ import annotations

from pathlib import Path

import pytest

from loader.embedded.database_text import database_text
from loader.embedded.server import embedded_server
from loader.postgres.connection import Database
from loader.postgres.database_url import place_of


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db.example.org/taxi", "taxi at db.example.org:5432"),
        ("postgresql://me:secret@db.example.org:6432/taxi?sslmode=require", "taxi at db.example.org:6432"),
        ("postgresql://me@[fd00::1]:6432/taxi", "taxi at [fd00::1]:6432"),
        ("postgresql://me@a:1,b:2/taxi", "taxi at a,b:1,2"),
        ("postgresql:///taxi?host=/run/postgresql", "taxi at /run/postgresql, port 5432"),
        ("host=db user=me password=secret", "the default database at db:5432"),
        ("service=importer", "the default database at service importer"),
        ("dbname=taxi", "taxi at localhost:5432"),
    ],
)
def test_a_url_is_shown_without_user_and_password(
    url: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PGHOST", "PGPORT", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(variable, raising=False)
    assert database_text(*place_of(url)) == shown


def test_variables_of_libpq_are_shown_where_the_url_does_not_say_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOST", "db.example.org")
    monkeypatch.setenv("PGPORT", "6432")
    monkeypatch.setenv("PGDATABASE", "taxi")
    assert database_text(*place_of("postgresql://me@/")) == "taxi at db.example.org:6432"


@pytest.mark.slow
def test_the_embedded_server_is_shown_by_its_data_folder(tmp_path: Path) -> None:
    with embedded_server(tmp_path) as url, Database(url).connection("test") as connection:
        info = connection.info
        assert database_text(info.host, info.port, info.dbname) == f"embedded, in {tmp_path}"
        assert database_text(*place_of(url)) == f"embedded, in {tmp_path}"
