"""The loader creates `trips` and its ledger, or names what prevents it."""

from __future__ import annotations

import pytest

from loader.contract import Failed, Failure, FailureCode, Job
from tests.support.loader_process import row_count
from tests.support.target import execute, url_of
from tests.support.whole_import import WholeImport

pytestmark = pytest.mark.slow


def test_an_empty_schema_loader_is_used_once_the_role_may_create_in_it(
    role: str, source: Job, database_url: str
) -> None:
    execute(database_url, "CREATE SCHEMA loader", f"GRANT CREATE ON SCHEMA public TO {role}")
    theirs = WholeImport(url_of(role, database_url), b"")
    failure = ended(theirs, source)
    assert failure.code is FailureCode.DATABASE_RIGHTS
    assert "schema loader" in failure.message
    execute(database_url, failure.hint.partition("instead: ")[2])
    end = theirs.ends(source)
    assert not isinstance(end, Failed), end.failure.message
    assert end.receipt.rows_published == row_count(database_url)


def ended(whole_import: WholeImport, job: Job) -> Failure:
    end = whole_import.ends(job)
    assert isinstance(end, Failed), end
    assert end.staging in ("none", "unknown")
    return end.failure


@pytest.mark.parametrize(
    ("statement", "code", "word"),
    [
        ("CREATE SCHEMA loader; CREATE TABLE loader.things (a int)", "database_configuration", "things"),
        ("CREATE SCHEMA loader; CREATE TYPE loader.mood AS ENUM ()", "database_configuration", "mood"),
        ("DROP SCHEMA public", "database_configuration", "public"),
        ("CREATE TYPE trips AS ENUM ('long')", "table_mismatch", "type"),
        ("CREATE VIEW trips AS SELECT 1 AS a", "table_mismatch", "trips"),
        (
            "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no DDL here''; END';"
            " CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION forbid()",
            "database_configuration",
            "no DDL here",
        ),
    ],
)
def test_an_object_that_prevents_the_loaders_tables_is_named(
    statement: str, code: str, word: str, whole_import: WholeImport, source: Job, database_url: str
) -> None:
    execute(database_url, statement)
    failure = ended(whole_import, source)
    assert failure.code == code
    assert word in failure.message
    if "CREATE SCHEMA public" in failure.hint or "RENAME" in failure.hint:
        execute(database_url, failure.hint.partition("again: ")[2])
        assert not isinstance(whole_import.ends(source), Failed)
    if "EVENT TRIGGER" in statement:
        execute(database_url, "DROP EVENT TRIGGER forbid")
