"""Database errors have the failure code of their cause: a row, a table, a limit of the server."""

from __future__ import annotations

import contextlib
import random
import string
from pathlib import Path

import psycopg
import pytest

from loader.contract import Failed, FailureCode, Job
from tests.support.loader_process import assert_nothing_is_left, committed_rows, query
from tests.support.postgres_server import own_server
from tests.support.target import create_trips, execute
from tests.support.whole_import import WholeImport

pytestmark = pytest.mark.slow


def long_text() -> str:
    """Return a text that no index entry has room for, however it is compressed."""
    letters = random.Random(7).choices(string.ascii_letters + string.digits, k=4000)
    return "".join(letters)


@pytest.mark.parametrize(
    ("change", "value", "word"),
    [
        ("CREATE INDEX mine ON trips (dispatching_base_num)", long_text(), "dispatching_base_num"),
        ("ALTER TABLE trips ADD CONSTRAINT mine CHECK (dispatching_base_num <> 'bad')", "bad", "mine"),
        (
            "ALTER TABLE trips ADD mine int GENERATED ALWAYS AS (dispatching_base_num::int) STORED",
            "bad",
            "integer",
        ),
        ("CREATE UNIQUE INDEX mine ON trips (import_key, part, hvfhs_license_num)", "1", "license_num"),
    ],
    ids=["too long for an index", "check", "generated column", "unique"],
)
def test_a_row_that_violates_an_addition_to_trips_is_a_bad_row(
    change: str, value: str, word: str, whole_import: WholeImport, source: Job, sample: bytes
) -> None:
    create_trips(whole_import.database_url)
    execute(whole_import.database_url, change)
    header, row, *_ = sample.splitlines(keepends=True)
    fields = row.split(b",")
    fields[1] = value.encode()
    Path(source.source).write_bytes(header + (row.replace(fields[1], b"1") if "::int" in change else row))
    with Path(source.source).open("ab") as file:
        file.write(b",".join(fields))
    failure = whole_import.fails(source, FailureCode.BAD_ROW)
    assert not failure.retryable
    assert word in failure.message
    assert_nothing_is_left(whole_import.database_url)


# The event of a trigger, and the statement of its function.
REFUSALS = {
    "an import's table": (
        "ddl_command_start WHEN TAG IN ('CREATE TABLE')",
        "RAISE 'ask Bob' USING HINT = 'He knows.'",
    ),
    "an index of a part": (
        "ddl_command_start WHEN TAG IN ('CREATE INDEX')",
        "RAISE 'ask Bob' USING HINT = 'He knows.', ERRCODE = 'check_violation'",
    ),
    "a lock that is none": (
        "ddl_command_end WHEN TAG IN ('CREATE TABLE')",
        "RAISE 'ask Bob' USING HINT = 'He knows.', ERRCODE = 'feature_not_supported'",
    ),
    "a code of its own": (
        "ddl_command_end WHEN TAG IN ('ALTER TABLE')",
        "RAISE 'ask Bob' USING HINT = 'He knows.', ERRCODE = 'MY001'",
    ),
    "an outage that is none": (
        "ddl_command_start WHEN TAG IN ('CREATE TABLE')",
        "RAISE 'ask Bob' USING HINT = 'He knows.', ERRCODE = 'admin_shutdown'",
    ),
    "an assertion": ("ddl_command_start WHEN TAG IN ('ALTER TABLE')", "ASSERT false, 'ask Bob'"),
    "a broken function": ("ddl_command_start WHEN TAG IN ('ALTER TABLE')", "PERFORM 'ask Bob'::integer"),
    "a missing table": ("ddl_command_end WHEN TAG IN ('CREATE TABLE')", 'PERFORM FROM "ask Bob"'),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_trigger_that_refuses_a_statement_is_quoted(
    refusal: str, whole_import: WholeImport, source: Job
) -> None:
    event, statement = REFUSALS[refusal]
    create_trips(whole_import.database_url)
    execute(
        whole_import.database_url,
        "CREATE INDEX mine ON trips (trip_miles)",
        f"CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; END $$",
        f"CREATE EVENT TRIGGER refuse ON {event} EXECUTE FUNCTION refuse()",
    )
    failure = whole_import.fails(source, FailureCode.DATABASE_CONFIGURATION)
    assert not failure.retryable
    assert "ask Bob" in failure.message
    assert "trigger" in failure.hint
    if "HINT" in statement:
        assert "refuse()" in failure.message
        assert "He knows." in failure.hint
    execute(whole_import.database_url, "DROP EVENT TRIGGER refuse")
    whole_import.succeeds(source)


def test_the_hint_of_a_trigger_that_forbids_the_roll_back_is_passed_on(
    whole_import: WholeImport, source: Job
) -> None:
    create_trips(whole_import.database_url)
    execute(
        whole_import.database_url,
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'ask Bob' USING HINT ="
        " 'He knows.'; END $$",
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION refuse()",
    )
    with Path(source.source).open("ab") as file:
        file.write(b"bad\n")
    end = whole_import.ends(source)
    assert isinstance(end, Failed), end
    assert (end.failure.code, end.staging) == (FailureCode.BAD_ROW, "unknown")
    assert "ask Bob" in end.failure.hint
    assert end.failure.hint.endswith("The server's hint: He knows.")


GUARDS = {
    "a trigger of the ledger": "CREATE TRIGGER mine BEFORE INSERT ON loader.block EXECUTE FUNCTION refuse()",
    "a default of trips": "ALTER TABLE trips ADD mine integer DEFAULT refused()",
}


@pytest.mark.parametrize("guard", GUARDS)
def test_a_trigger_of_the_ledger_or_a_default_that_fails_is_quoted(
    guard: str, whole_import: WholeImport, source: Job
) -> None:
    create_trips(whole_import.database_url)
    execute(
        whole_import.database_url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'ask Bob'; END $$",
        'CREATE FUNCTION refused() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN count(*) FROM "ask Bob"; END $$',
    )
    execute(whole_import.database_url, GUARDS[guard])
    end = whole_import.ends(source)
    assert isinstance(end, Failed), end
    assert end.failure.code is FailureCode.DATABASE_CONFIGURATION, end
    assert "ask Bob" in end.failure.message


def test_the_hint_of_the_server_is_passed_on(whole_import: WholeImport, source: Job, sample: bytes) -> None:
    create_trips(whole_import.database_url)
    execute(whole_import.database_url, "CREATE INDEX mine ON trips (dispatching_base_num)")
    fields = sample.splitlines()[1].split(b",")
    fields[1] = long_text().encode()
    with Path(source.source).open("ab") as file:
        file.write(b",".join(fields) + b"\n")
    failure = whole_import.fails(source, FailureCode.BAD_ROW)
    assert "MD5" in failure.hint  # of Postgres: "Consider a function index of an MD5 hash of the value"


def test_a_row_that_violates_a_foreign_key_keeps_the_staging(whole_import: WholeImport, source: Job) -> None:
    create_trips(whole_import.database_url)
    url = whole_import.database_url
    execute(
        url,
        "CREATE TABLE zones (zone integer PRIMARY KEY)",
        "ALTER TABLE trips ADD CONSTRAINT in_a_zone FOREIGN KEY (pulocationid) REFERENCES zones",
    )
    failure = whole_import.fails(source, FailureCode.TABLE_MISMATCH)
    assert not failure.retryable
    assert "in_a_zone" in failure.message
    assert "zones" in str(failure.value)
    rows = committed_rows(url)
    assert f"{rows:,} rows" in failure.hint
    execute(url, "INSERT INTO zones SELECT generate_series(1, 300)")
    assert whole_import.succeeds(source).attempts == 2


def test_an_exceeded_limit_of_the_server_is_its_configuration(
    whole_import: WholeImport, source: Job, sample: bytes
) -> None:
    create_trips(whole_import.database_url)
    url = whole_import.database_url
    name = query(url, "SELECT current_database()")[0][0]
    execute(
        url,
        "CREATE INDEX mine ON trips (dropoff_datetime, request_datetime, trip_miles)",
        f"ALTER DATABASE {name} SET temp_file_limit = 0",
        f"ALTER DATABASE {name} SET maintenance_work_mem = '64kB'",
    )
    failure = whole_import.fails(source, FailureCode.DATABASE_CONFIGURATION)
    assert (failure.code, failure.retryable) == (FailureCode.DATABASE_CONFIGURATION, False)
    assert "temp_file_limit" in failure.message
    with (
        own_server(settings={"max_locks_per_transaction": "10", "max_connections": "20"}) as own,
        psycopg.connect(own.url, autocommit=True) as holder,
    ):
        with contextlib.suppress(psycopg.errors.OutOfMemory):
            holder.execute("SELECT pg_advisory_lock(i) FROM generate_series(1, 100000) AS i")
        end = WholeImport(own.url, sample).ends(source)
    assert isinstance(end, Failed), end
    failure = end.failure
    assert failure.code is FailureCode.DATABASE_CONFIGURATION
    assert "max_locks_per_transaction" in failure.hint
