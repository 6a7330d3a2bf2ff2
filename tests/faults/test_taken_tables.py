"""Operators rename, move, detach and drop tables of imports: the loader drops its own tables, and no others."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from loader.cli import commands
from loader.contract import ExitCode, Failed, FailureCode, Job, Published
from loader.errors import LoaderError
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    Loaders,
    assert_nothing_is_left,
    checksum,
    checksum_of,
    fresh_database,
    query,
)
from tests.support.mid_load import holding, staged_part, wait_for_lock
from tests.support.postgres_server import installed
from tests.support.supervision import SupervisorHarness
from tests.support.table_operator import Operator
from tests.support.target import execute

# Imports of a second each.
pytestmark = pytest.mark.slow

ELSEWHERE = """CREATE TABLE elsewhere (LIKE trips) PARTITION BY LIST (import_key);
ALTER TABLE elsewhere ATTACH PARTITION loader.import_1 FOR VALUES IN (1)"""
DETACH = "ALTER TABLE trips DETACH PARTITION loader.import_1"
ARCHIVE = "CREATE SCHEMA archive;\nALTER TABLE loader.import_1 SET SCHEMA archive"
# SQL that takes the first import out of trips, and the table that has its rows afterwards.
TAKEN = {
    "trips is renamed": ("ALTER TABLE trips RENAME TO trips_2023", "trips_2023"),
    "trips and the import are renamed": (
        "ALTER TABLE trips RENAME TO trips_2023;\nALTER TABLE loader.import_1 RENAME TO january",
        "loader.january",
    ),
    "trips is moved": (
        "CREATE SCHEMA archive;\nALTER TABLE trips SET SCHEMA archive",
        "archive.trips",
    ),
    "detached": (DETACH, "loader.import_1"),
    "detached and moved": (f"{DETACH};\n{ARCHIVE}", "archive.import_1"),
    "detached and renamed": (f"{DETACH};\nALTER TABLE loader.import_1 RENAME TO january", "loader.january"),
    "attached to another table": (f"{DETACH};\n{ELSEWHERE}", "elsewhere"),
}


@pytest.fixture
def operator(database_url: str, tmp_path: Path, sample: bytes) -> Operator:
    return Operator(database_url, tmp_path, sample)


def refused(operator: Operator, import_id: str, *, published: bool = True) -> LoaderError:
    with pytest.raises(LoaderError) as raised:
        commands.drop(operator.database_url, UUID(import_id), published=published)
    return raised.value


@pytest.mark.parametrize("taken", TAKEN)
def test_a_table_taken_out_of_trips_is_left_alone(
    taken: str, operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    statements, table = TAKEN[taken]
    january = operator.load()
    operator.sql(statements)
    february = operator.load("february", "replace")
    march = operator.load("march", "replace")
    assert operator.count("trips") == march.rows_published
    error = refused(operator, january.import_id)
    assert error.code is FailureCode.IMPORT_DETACHED
    commands.collect(operator.database_url, dry_run=False)
    assert operator.count(table) == january.rows_published
    states = operator.states(capsys)
    assert february.import_id not in states
    assert states[january.import_id][0] == "detached"
    assert str(states[january.import_id][1]) in error.failure.message
    assert query(operator.database_url, "SELECT state FROM loader.import") == [("published",)] * 2


def test_a_trips_that_gets_its_name_back_has_its_imports_again(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    january = operator.load()
    operator.sql("ALTER TABLE trips RENAME TO trips_2023")
    operator.load("february")
    operator.sql("ALTER TABLE trips RENAME TO trips_2024;\nALTER TABLE trips_2023 RENAME TO trips")
    assert [state for state, _ in operator.states(capsys).values()] == ["published", "detached"]
    commands.drop(operator.database_url, UUID(january.import_id), published=True)
    assert operator.count("trips") == 0
    assert operator.count("loader.import_2") > 0


def test_a_renamed_import_leaves_trips_with_the_others_and_keeps_its_rows(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    january = operator.load()
    operator.sql("ALTER TABLE loader.import_1 RENAME TO january")
    assert operator.states(capsys)[january.import_id] == ("published", "loader.january")
    february = operator.load("february", "replace")
    assert operator.count("trips") == february.rows_published
    assert operator.count("loader.january") == january.rows_published
    assert operator.states(capsys)[january.import_id] == ("detached", "loader.january")


def test_a_dropped_table_leaves_a_record_that_drop_removes(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    january = operator.load()
    operator.sql("DROP TABLE loader.import_1")
    assert operator.states(capsys) == {january.import_id: ("detached", None)}
    commands.drop(operator.database_url, UUID(january.import_id), published=False)
    assert operator.states(capsys) == {}
    assert_nothing_is_left(operator.database_url)


USERS_TABLES = {
    "the name of the import": (
        f"{DETACH};\n{ARCHIVE};\nCREATE TABLE loader.import_1 AS SELECT 1 AS mine",
        "loader.import_1",
    ),
    "the name of a part": (
        f"{DETACH};\n{ARCHIVE};\nALTER TABLE loader.import_1_part_1 SET SCHEMA archive;\n"
        "CREATE TABLE loader.import_1_part_1 AS SELECT 1 AS mine",
        "loader.import_1_part_1",
    ),
    "the key of the import": (
        f"{DETACH};\n{ARCHIVE};\nCREATE TABLE mine PARTITION OF trips FOR VALUES IN (1);\n"
        "INSERT INTO mine (import_key, part) VALUES (1, 1)",
        "mine",
    ),
    "name and key of the import": (
        f"{DETACH};\n{ARCHIVE};\nCREATE TABLE loader.import_1 PARTITION OF trips FOR VALUES IN (1);\n"
        "INSERT INTO loader.import_1 (import_key, part) VALUES (1, 1)",
        "loader.import_1",
    ),
    "a place in the import": (
        "CREATE TABLE mine PARTITION OF loader.import_1 FOR VALUES IN (77);\n"
        "INSERT INTO mine (import_key, part) VALUES (1, 77)",
        "mine",
    ),
}


@pytest.mark.parametrize("has", USERS_TABLES)
@pytest.mark.parametrize("end", ["replaced", "dropped"])
def test_a_users_table_is_never_dropped(has: str, end: str, operator: Operator) -> None:
    statements, table = USERS_TABLES[has]
    january = operator.load()
    operator.sql(statements)
    if end == "replaced":
        operator.load("february", "replace")
    elif has == "a place in the import":
        commands.drop(operator.database_url, UUID(january.import_id), published=True)
    else:
        refused(operator, january.import_id)
    commands.collect(operator.database_url, dry_run=False)
    assert operator.count(table) == 1
    if has != "a place in the import":
        assert operator.count("archive.import_1") == january.rows_published


PART = "loader.import_1_part_1"
TAKEN_PARTS = {
    "detached": (f"ALTER TABLE loader.import_1 DETACH PARTITION {PART}", PART),
    "renamed": (f"ALTER TABLE {PART} RENAME TO mine", "loader.mine"),
    "moved": (f"CREATE SCHEMA archive;\nALTER TABLE {PART} SET SCHEMA archive", "archive.import_1_part_1"),
}


@pytest.mark.parametrize("taken", TAKEN_PARTS)
def test_a_part_taken_from_a_published_import_is_left_alone(taken: str, operator: Operator) -> None:
    statements, table = TAKEN_PARTS[taken]
    january = operator.load()
    rows = operator.count(PART)
    operator.sql(statements)
    commands.drop(operator.database_url, UUID(january.import_id), published=True)
    assert operator.count(table) == rows
    assert operator.count("trips") == 0
    assert operator.tables() <= {"import_1_part_1"}
    assert query(operator.database_url, "SELECT FROM loader.import") == []


TAKEN_STAGING = TAKEN_PARTS | {
    "its part is dropped": (f"DROP TABLE {PART}", None),
    "it is dropped": ("DROP TABLE loader.import_1", None),
    "it is renamed": ("ALTER TABLE loader.import_1 RENAME TO mine", "loader.mine"),
    "it is moved": (ARCHIVE, "archive.import_1"),
}


@pytest.mark.parametrize("taken", TAKEN_STAGING)
def test_staging_that_was_moved_or_dropped_is_loaded_again(taken: str, operator: Operator) -> None:
    statements, table = TAKEN_STAGING[taken]
    import_id = operator.stage()
    operator.sql(statements)
    rows = operator.count(table) if table else -1
    end = operator.run(Job(source=operator.file()))
    assert isinstance(end, Published), end
    receipt = end.receipt
    assert (receipt.import_id, receipt.attempts) == (import_id, 2)
    is_still_there = taken in TAKEN_PARTS  # it is attached, whatever its name, or is attached again
    assert ("loaded again" in "".join(receipt.notes)) == (not is_still_there)
    assert operator.count("trips") == receipt.rows_parsed == receipt.rows_published
    csv = Path(operator.file()).read_bytes()
    assert checksum(operator.database_url) == checksum_of(operator.database_url, csv)
    if table:
        assert operator.count(table) == rows > 0


MEDDLED = {
    "a part is moved away": f"ALTER TABLE loader.import_2 DETACH PARTITION {PART};\nALTER TABLE {PART} RENAME TO mine",
    "a part is dropped": f"DROP TABLE {PART}",
    "a table is attached": "CREATE TABLE mine PARTITION OF loader.import_2 FOR VALUES IN (77)",
}


@pytest.mark.parametrize("meddled", MEDDLED)
def test_parts_that_are_changed_before_the_publish_are_not_published(
    meddled: str, loaders: Loaders, operator: Operator
) -> None:
    first = operator.load("february")
    with holding(loaders, "LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE"):
        loader = loaders.start("run", operator.file())
        loader.wait_for_phase("publishing")
        wait_for_lock(loaders, "control")
        execute(loaders.database_url, MEDDLED[meddled].replace(PART, staged_part(loaders, import_key=2)))
    last = loader.failure()
    assert (last.failure.code, last.staging) == (FailureCode.TABLE_CHANGED, "kept")
    assert operator.count("trips") == first.rows_published
    if meddled == "a table is attached":
        execute(loaders.database_url, "ALTER TABLE loader.import_2 DETACH PARTITION mine")
    receipt = loaders.start("run", operator.file()).receipt()
    assert receipt.rows_published + first.rows_published == operator.count("trips")


@pytest.mark.parametrize("taken", [each for each in TAKEN_STAGING if each != "detached"])
@pytest.mark.parametrize("how", ["dropped", "collected"])
def test_staging_that_was_moved_is_not_dropped_with_its_import(
    taken: str, how: str, operator: Operator
) -> None:
    statements, table = TAKEN_STAGING[taken]
    import_id = operator.stage()
    operator.sql(statements)
    rows = operator.count(table) if table else -1
    if how == "dropped":
        commands.drop(operator.database_url, UUID(import_id), published=False)
    else:
        commands.collect(operator.database_url, dry_run=False)
    assert query(operator.database_url, "SELECT FROM loader.import") == []
    assert operator.count(str(table)) == rows
    assert not [each for each in operator.tables() if each != "mine" and operator.count(str(table)) <= 0]


def test_the_name_of_the_next_import_may_be_taken_already(operator: Operator) -> None:
    operator.load()
    operator.sql("CREATE TABLE loader.import_2 AS SELECT 1 AS mine")
    end = operator.run(Job(source=operator.file("february")))
    assert isinstance(end, Failed)
    assert end.failure.code is FailureCode.TABLE_MISMATCH
    assert "loader.import_2" in end.failure.message
    commands.collect(operator.database_url, dry_run=False)
    assert operator.count("loader.import_2") == 1


def test_the_name_of_the_next_part_may_be_taken_already(operator: Operator) -> None:
    operator.load()
    ((last,),) = query(operator.database_url, "SELECT last_value FROM loader.part_number")
    names = [f"import_2_part_{int(str(last)) + number}" for number in range(1, 6)]
    operator.sql(";\n".join(f"CREATE TABLE loader.{name} AS SELECT 1 AS mine" for name in names))
    end = operator.run(Job(source=operator.file("february")))
    assert isinstance(end, Failed)
    assert end.failure.code is FailureCode.TABLE_MISMATCH
    commands.collect(operator.database_url, dry_run=False)
    assert [operator.count(f"loader.{name}") for name in names] == [1] * 5


@pytest.mark.parametrize("is_replaced", [False, True], ids=["drop", "replace"])
def test_a_removal_that_loses_a_race_against_an_archiving_session_drops_nothing(
    is_replaced: bool, loaders: Loaders, operator: Operator
) -> None:
    """The session has detached and moved the import, and commits while the loader waits for its lock."""
    january = operator.load()
    with psycopg.connect(operator.database_url) as archiving:
        for statement in f"{DETACH};\n{ARCHIVE}".split(";\n"):
            archiving.execute(statement.encode())
        if is_replaced:
            loader = loaders.start("run", operator.file("february"), "--mode", "replace")
        else:
            loader = loaders.start("drop", "--published", january.import_id)
        wait_for_lock(loaders)
    code = loader.wait()
    assert operator.count("archive.import_1") == january.rows_published
    if is_replaced:
        assert code == ExitCode.PUBLISHED
        assert operator.count("trips") > 0
    else:
        assert FailureCode.IMPORT_DETACHED in loader.stderr
    assert query(operator.database_url, "SELECT state FROM loader.import WHERE import_key = 1") == [
        ("published",)
    ]


def test_after_a_restore_imports_are_found_and_renamed_ones_are_left_alone(
    operator: Operator, postgres: str, capsys: pytest.CaptureFixture[str]
) -> None:
    january, february = operator.load(), operator.load("february")
    operator.sql(f"{DETACH};\n{ARCHIVE}")
    program = installed()[18] / "pg_dump"
    dump = subprocess.run([program, operator.database_url], stdout=subprocess.PIPE, check=True).stdout
    with fresh_database(postgres) as restored_url:
        subprocess.run([program.with_name("psql"), "--quiet", restored_url], input=dump, check=True)
        restored = Operator(restored_url, operator.folder, operator.sample)
        assert restored.states(capsys) == {
            january.import_id: ("detached", None),
            february.import_id: ("published", "loader.import_2"),
        }
        march = restored.load("march", "replace")
        commands.collect(restored_url, dry_run=False)
        assert restored.count("trips") == march.rows_published
        assert restored.count("archive.import_1") == january.rows_published
        assert february.import_id not in restored.states(capsys)


def test_imports_that_a_restored_ledger_does_not_know_are_left_alone(operator: Operator) -> None:
    """As after a restore of the schema loader from a backup that is older than the tables."""
    january, february = operator.load(), operator.load("february")
    operator.sql(
        "DELETE FROM loader.part WHERE import_key = 2;\nDELETE FROM loader.import WHERE import_key = 2;\n"
        "ALTER TABLE loader.import ALTER import_key RESTART WITH 2"
    )
    end = operator.run(Job(source=operator.file("march")))
    assert isinstance(end, Failed)
    assert (end.failure.code, end.staging) == (FailureCode.TABLE_MISMATCH, "none")
    assert "loader.import_2" in end.failure.message
    march = operator.load("march", "replace")
    assert march.import_key == 3
    assert operator.count("loader.import_2") == february.rows_published
    assert operator.count("trips") == february.rows_published + march.rows_published
    assert january.import_id not in str(query(operator.database_url, "SELECT id FROM loader.import"))


@pytest.mark.anyio
async def test_the_service_forgets_a_detached_import_and_leaves_its_table(
    harness: SupervisorHarness, server: HttpServer
) -> None:
    import_id = await harness.submit(server.url)
    receipt = await harness.receipt(import_id)
    execute(harness.database_url, f"{DETACH};\n{ARCHIVE}")
    await harness.supervisor.remove(import_id, drops_rows=True)
    await harness.until_gone(import_id)
    assert query(harness.database_url, "SELECT count(*) FROM archive.import_1") == [(receipt.rows_published,)]
    assert query(harness.database_url, "SELECT id, state FROM loader.import") == [(import_id, "published")]
