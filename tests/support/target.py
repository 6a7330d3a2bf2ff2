"""SQL on a test's target database: statements of an operator, and the tables that the loader creates there."""

from __future__ import annotations

import psycopg

from loader.postgres import target_table
from loader.postgres.connection import Database


def execute(database_url: str, *statements: str) -> None:
    """Run statements one by one, as psql does; one text may have several, each on lines of its own."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in ";\n".join(statements).split(";\n"):
            connection.execute(statement.encode())


def url_of(role: str, database_url: str) -> str:
    """Return the URL with which a role connects to a test's database."""
    return database_url.replace("//postgres@", f"//{role}@")


def create_trips(database_url: str) -> None:
    """Create an empty `trips` and the ledger, as the first import does."""
    with Database(database_url).connection("test") as connection:
        target_table.prepare(connection)
