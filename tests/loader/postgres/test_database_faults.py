"""Whose fault an error of the database is: a row's, the table's, a setting's, or an outage's; and what the probe tells."""

from __future__ import annotations

import contextlib
import itertools
import random
import string
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest

from loader.contract import Failed, Failure, FailureCode, Job
from loader.errors import LoaderError
from loader.postgres.connection import Database
from tests.support.loader_process import (
    assert_nothing_is_left,
    committed_rows,
    query,
    row_count,
)
from tests.support.postgres_server import OwnServer, own_server
from tests.support.whole_import import WholeImport

pytestmark = pytest.mark.slow

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


def execute(database_url: str, *statements: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def make_trips(whole_import: WholeImport, source: Job) -> None:
    """Have the loader make its tables, and leave `trips` empty."""
    receipt = whole_import.succeeds(source)
    execute(
        whole_import.database_url,
        f"ALTER TABLE trips DETACH PARTITION loader.import_{receipt.import_key}",
        f"DROP TABLE loader.import_{receipt.import_key}",
        "DELETE FROM loader.part",
        "DELETE FROM loader.import",
    )


def refusal_of(url: str, *, was_admitted: bool = False) -> Failure:
    """Return the failure of a connection that can't be made."""
    with (
        pytest.raises(LoaderError) as caught,
        Database(url, was_admitted=was_admitted).connection("test"),
    ):
        pass
    return caught.value.failure


@pytest.fixture(scope="module")
def guarded() -> Generator[OwnServer]:
    """A server that asks `asked` for a password, lets `postgres` in by TLS alone, and has databases nobody may use."""
    with own_server(settings={"max_connections": "12"}) as own:
        access = own.data / "pg_hba.conf"
        access.write_text(
            "local all all trust\nhostssl all postgres all trust\nhost all postgres all reject\n"
            "host all asked all scram-sha-256\nhost all all all trust\n"
        )
        own.alter(
            "CREATE ROLE asked LOGIN PASSWORD 'right'",
            "CREATE ROLE locked_out NOLOGIN",
            "CREATE ROLE full_up LOGIN CONNECTION LIMIT 0",
            "CREATE DATABASE private",
            "REVOKE CONNECT ON DATABASE private FROM public",
        )
        yield own


@pytest.mark.parametrize(
    ("user", "rest", "code"),
    [
        ("asked:wrong", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("asked", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("nobody", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("locked_out", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("asked:right", "missing", FailureCode.DATABASE_CONFIGURATION),
        ("asked:right", "postgres?options=-cno_such_setting%3D1", FailureCode.DATABASE_CONFIGURATION),
        ("postgres", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("asked:right", "postgres?sslmode=require", FailureCode.DATABASE_CONFIGURATION),
        ("asked:right", "private", FailureCode.DATABASE_RIGHTS),
        ("full_up", "postgres", FailureCode.DATABASE_UNAVAILABLE),
    ],
)
def test_a_first_connection_that_is_refused_is_told_by_its_sqlstate(
    user: str, rest: str, code: FailureCode, guarded: OwnServer
) -> None:
    url = f"postgresql://{user}@{guarded.host}:{guarded.port}/{rest}"
    failure = refusal_of(url)
    assert (failure.code, failure.retryable) == (code, code is FailureCode.DATABASE_UNAVAILABLE)
    assert "wrong" not in failure.message
    if code is FailureCode.DATABASE_CONFIGURATION:
        assert refusal_of(url, was_admitted=True).code is FailureCode.DATABASE_UNAVAILABLE
        with pytest.MonkeyPatch.context() as without_traces:
            without_traces.setattr("sys.platform", "darwin")
            assert refusal_of(url).code is FailureCode.DATABASE_UNAVAILABLE


def test_a_server_that_is_down_or_does_not_answer_may_come_back(guarded: OwnServer) -> None:
    guarded.stop()
    try:
        assert refusal_of(guarded.tcp_url).code is FailureCode.DATABASE_UNAVAILABLE
    finally:
        guarded.start()
    assert refusal_of("postgresql://no-such-host.invalid/taxi").retryable


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
def test_a_row_that_breaks_what_was_added_to_trips_is_told_once(
    change: str, value: str, word: str, whole_import: WholeImport, source: Job, sample: bytes
) -> None:
    make_trips(whole_import, source)
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


def test_a_hint_of_the_server_is_passed_on(whole_import: WholeImport, source: Job, sample: bytes) -> None:
    make_trips(whole_import, source)
    execute(whole_import.database_url, "CREATE INDEX mine ON trips (dispatching_base_num)")
    fields = sample.splitlines()[1].split(b",")
    fields[1] = long_text().encode()
    with Path(source.source).open("ab") as file:
        file.write(b",".join(fields) + b"\n")
    failure = whole_import.fails(source, FailureCode.BAD_ROW)
    assert "MD5" in failure.hint  # of Postgres: "Consider a function index of an MD5 hash of the value"


def test_a_foreign_key_that_a_row_breaks_keeps_all_until_it_is_mended(
    whole_import: WholeImport, source: Job
) -> None:
    make_trips(whole_import, source)
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


STOPPERS = {
    "ALTER TABLE trips ADD mine bigint GENERATED ALWAYS AS IDENTITY": "mine is an identity",
    "ALTER TABLE trips ADD mine bigint GENERATED BY DEFAULT AS IDENTITY": "mine is an identity",
    'ALTER TABLE trips ADD "Mine" text NOT NULL': "Mine is NOT NULL without a default",
    "CREATE DOMAIN told AS text NOT NULL; ALTER TABLE trips ADD mine told": "mine is NOT NULL",
    "ALTER TABLE trips ADD CONSTRAINT mine UNIQUE (import_key, trip_miles)": "does not include both keys",
    "CREATE UNIQUE INDEX mine ON trips (import_key, trip_miles)": "does not include both keys",
    "ALTER TABLE trips ADD PRIMARY KEY (import_key, part)": "allows one row a part",
    "ALTER TABLE trips DROP tolls; ALTER TABLE trips ADD tolls double precision GENERATED ALWAYS AS (tips) STORED": (
        "tolls is generated"
    ),
}


@pytest.mark.parametrize("change", STOPPERS)
def test_what_stops_every_import_is_told_at_the_probe_with_the_sql_that_mends_it(
    change: str, whole_import: WholeImport, source: Job
) -> None:
    make_trips(whole_import, source)
    execute(whole_import.database_url, change)
    failure = whole_import.fails(source, FailureCode.TABLE_MISMATCH)
    assert STOPPERS[change] in failure.message
    remedy = failure.hint.partition("again: ")[2]
    assert remedy
    if "DOMAIN" in change:
        remedy = "ALTER TABLE trips ALTER mine TYPE text"
    execute(whole_import.database_url, remedy)
    receipt = whole_import.ends(source)
    assert not isinstance(receipt, Failed), receipt
    assert receipt.receipt.rows_published == row_count(whole_import.database_url)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE SEQUENCE numbers; ALTER TABLE trips ADD mine bigint NOT NULL DEFAULT nextval('numbers')",
        "ALTER TABLE trips ADD mine text",
        "ALTER TABLE trips ADD mine double precision GENERATED ALWAYS AS (tips * 2) STORED",
        "ALTER TABLE trips ADD CONSTRAINT mine UNIQUE (import_key, part, request_datetime, trip_miles, driver_pay)",
    ],
)
def test_what_imports_can_live_with_is_no_fault(change: str, whole_import: WholeImport, source: Job) -> None:
    make_trips(whole_import, source)
    execute(whole_import.database_url, change)
    end = whole_import.ends(source)
    assert not isinstance(end, Failed), end


def test_a_schema_that_was_made_beforehand_is_used(role: str, source: Job, database_url: str) -> None:
    execute(database_url, "CREATE SCHEMA loader", f"GRANT CREATE ON SCHEMA public TO {role}")
    theirs = WholeImport(database_url.replace("//postgres@", f"//{role}@"), b"")
    failure = ended(theirs, source)
    assert failure.code is FailureCode.DATABASE_RIGHTS
    assert "schema loader" in failure.message
    execute(database_url, failure.hint.partition("too: ")[2])
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
def test_what_is_in_the_way_of_the_loaders_tables_is_named(
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


def test_limits_of_the_server_are_a_matter_of_its_configuration(
    whole_import: WholeImport, source: Job, sample: bytes
) -> None:
    make_trips(whole_import, source)
    url = whole_import.database_url
    name = query(url, "SELECT current_database()")[0][0]
    execute(
        url,
        "CREATE INDEX mine ON trips (dropoff_datetime, request_datetime, trip_miles)",
        f"ALTER DATABASE {name} SET temp_file_limit = 0",
        f"ALTER DATABASE {name} SET maintenance_work_mem = '64kB'",
    )
    failure = ended(whole_import, source)
    assert (failure.code, failure.retryable) == (FailureCode.DATABASE_CONFIGURATION, False)
    assert "temp_file_limit" in failure.message
    with (
        own_server(settings={"max_locks_per_transaction": "10", "max_connections": "20"}) as own,
        psycopg.connect(own.url, autocommit=True) as holder,
    ):
        with contextlib.suppress(psycopg.errors.OutOfMemory):
            holder.execute("SELECT pg_advisory_lock(i) FROM generate_series(1, 100000) AS i")
        failure = ended(WholeImport(own.url, sample), source)
    assert failure.code is FailureCode.DATABASE_CONFIGURATION
    assert "max_locks_per_transaction" in failure.hint
