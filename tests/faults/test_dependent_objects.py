"""Objects that depend on imports, or forbid their removal: the message names them, and other removals continue."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from loader.cli import commands
from loader.contract import Failed, FailureCode, Job, Published
from loader.errors import LoaderError
from tests.support.loader_process import assert_nothing_is_left, query
from tests.support.mid_load import REFERENCE
from tests.support.table_operator import Operator

# Imports of a second each.
pytestmark = pytest.mark.slow

PART = "loader.import_1_part_1"
# Objects that depend on the first import, the name that the message must contain, and the SQL that removes the object.
DEPENDENTS = {
    "a view of the import": (
        "CREATE VIEW mine AS SELECT * FROM loader.import_1", "view mine", "DROP VIEW mine"
    ),
    "a materialized view of a part": (
        f"CREATE MATERIALIZED VIEW mine AS SELECT * FROM {PART}", "mine", "DROP MATERIALIZED VIEW mine"
    ),
    "a function": (
        f"CREATE FUNCTION mine() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {PART}; END",
        "mine()",
        "DROP FUNCTION mine",
    ),
    "a rule": (
        f"CREATE TABLE notes (a int);\nCREATE RULE mine AS ON INSERT TO notes DO ALSO SELECT FROM {PART}",
        "rule mine",
        "DROP TABLE notes",
    ),
    "an event trigger": (
        "CREATE FUNCTION mine() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'ask Bob' USING HINT = 'He knows.';"
        " END $$;\nCREATE EVENT TRIGGER mine ON sql_drop EXECUTE FUNCTION mine()",
        "ask Bob",
        "DROP EVENT TRIGGER mine",
    ),
}  # fmt: skip


@pytest.fixture
def operator(database_url: str, tmp_path: Path, sample: bytes) -> Operator:
    return Operator(database_url, tmp_path, sample)


@pytest.mark.parametrize("dependent", DEPENDENTS)
def test_an_object_that_depends_on_an_import_is_named_and_blocks_no_other_removal(
    dependent: str, operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    statements, name, remedy = DEPENDENTS[dependent]
    january = operator.load()
    operator.sql(statements)
    with pytest.raises(LoaderError) as raised:
        commands.drop(operator.database_url, UUID(january.import_id), published=True)
    if dependent != "an event trigger":
        assert raised.value.code is FailureCode.TABLE_REFERENCED
    assert name in raised.value.failure.message
    staged = operator.stage("february")
    with pytest.raises(LoaderError) as raised:
        commands.collect(operator.database_url, dry_run=False)
    output = capsys.readouterr()
    assert name in output.err
    assert raised.value.code is not FailureCode.INTERNAL_ERROR
    if dependent != "an event trigger":  # it forbids the other's removal, too
        assert f"removed import {staged}" in output.out
    operator.sql(remedy)
    commands.collect(operator.database_url, dry_run=False)
    assert operator.count("trips") == 0
    assert_nothing_is_left(operator.database_url)


BLOCKED = {
    "a foreign key": (
        ";\n".join(REFERENCE),
        FailureCode.TABLE_REFERENCED,
        "about_a_trip",
        "DROP TABLE notes",
    ),
    "an event trigger": (
        "CREATE FUNCTION mine() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'ask Bob'; END $$;\n"
        "CREATE EVENT TRIGGER mine ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION mine()",
        FailureCode.DATABASE_CONFIGURATION,
        "ask Bob",
        "DROP EVENT TRIGGER mine",
    ),
}


@pytest.mark.parametrize("blocker", BLOCKED)
def test_an_import_that_can_not_leave_trips_stays_published(
    blocker: str, operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows are in trips, so the same file must not be loaded beside it."""
    statements, code, name, remedy = BLOCKED[blocker]
    january = operator.load()
    operator.sql(statements)
    for _ in range(2):
        with pytest.raises(LoaderError) as raised:
            commands.drop(operator.database_url, UUID(january.import_id), published=True)
        assert raised.value.code is code
        assert name in raised.value.failure.message
        assert operator.states(capsys)[january.import_id][0] == "published"
    again = operator.run(Job(operator.file()))
    assert isinstance(again, Failed)
    assert again.failure.code is FailureCode.ALREADY_IMPORTED
    commands.collect(operator.database_url, dry_run=False)
    assert operator.count("trips") == january.rows_published
    operator.sql(remedy)
    commands.drop(operator.database_url, UUID(january.import_id), published=True)
    assert operator.count("trips") == 0
    assert_nothing_is_left(operator.database_url)


def test_a_ledger_table_that_a_publication_makes_read_only_is_named(operator: Operator) -> None:
    """SQLSTATE 55000 is not a lock here: waiting does not help."""
    staged = operator.stage()
    operator.sql(
        "ALTER TABLE loader.reject DROP CONSTRAINT reject_pkey;\n"
        "CREATE PUBLICATION mine FOR ALL TABLES;\n"
        "INSERT INTO loader.reject SELECT import_key, part, 1, 1, NULL, NULL, 'why', '' FROM loader.part LIMIT 1"
    )
    with pytest.raises(LoaderError) as raised:
        commands.drop(operator.database_url, UUID(staged), published=False)
    assert raised.value.code is FailureCode.DATABASE_CONFIGURATION
    assert "reject" in raised.value.failure.message
    assert "REPLICA IDENTITY" in raised.value.failure.hint
    operator.sql("DROP PUBLICATION mine")
    commands.collect(operator.database_url, dry_run=False)
    assert_nothing_is_left(operator.database_url)


PUBLICATIONS = {
    "of all tables": "CREATE PUBLICATION mine FOR ALL TABLES",
    "of the loader's schema": "CREATE PUBLICATION mine FOR TABLES IN SCHEMA loader",
    "of trips, by its root": "CREATE PUBLICATION mine FOR TABLE trips WITH (publish_via_partition_root)",
    "of a part": f"CREATE PUBLICATION mine FOR TABLE {PART}",
}


@pytest.mark.parametrize("published", PUBLICATIONS)
def test_imports_of_published_tables_can_be_replaced_dropped_and_collected(
    published: str, operator: Operator, tmp_path: Path
) -> None:
    operator.load()
    operator.sql(PUBLICATIONS[published])
    header, first, *_ = Path(operator.file()).read_text().split("\n")
    with_rejects = tmp_path / "rejects.csv"
    with_rejects.write_text(f"{header}\nbad\n{first}\n")
    operator.load("february", "replace")
    rejecting = operator.run(Job(source=str(with_rejects), max_rejects="1"))
    assert isinstance(rejecting, Published)
    commands.drop(operator.database_url, UUID(rejecting.receipt.import_id), published=True)
    staged = operator.stage("march")
    commands.collect(operator.database_url, dry_run=False)
    assert staged not in str(query(operator.database_url, "SELECT id FROM loader.import"))
    assert_nothing_is_left(operator.database_url)
    operator.sql("DROP PUBLICATION mine")
