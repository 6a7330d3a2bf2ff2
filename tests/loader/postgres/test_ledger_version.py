"""The ledger's version: an older ledger is upgraded in one step, a newer one is refused, a restored one gets its OIDs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import psycopg
import pytest

from loader.cli import commands
from loader.contract import FailureCode, Job, Published
from loader.errors import LoaderError
from loader.postgres import ledger, ledger_version, target_table
from loader.postgres.connection import Database
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS
from loader.source.open import open_source
from tests.support.loader_process import Loaders, assert_nothing_is_left, fresh_database, query
from tests.support.table_operator import Operator

# pg_dump's output of a database that the loader filled while its ledger had version 1.
VERSION_1 = Path(__file__).with_name("ledger_version_1.sql").read_text()

CATALOG = {
    "columns": "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull,"
    " pg_get_expr(adbin, adrelid) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
    " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
    " WHERE relnamespace = 'loader'::regnamespace AND relname !~ '^import_[0-9]' AND attnum > 0 ORDER BY 1, 2",
    "constraints": "SELECT conrelid::regclass::text, pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint"
    " JOIN pg_class ON pg_class.oid = conrelid WHERE relnamespace = 'loader'::regnamespace"
    " AND relname !~ '^import_[0-9]' ORDER BY 1, 2",
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'loader' AND tablename !~ '^import_[0-9]' ORDER BY 1",
    "version": "SELECT version FROM loader.ledger",
}


def upgraded(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(VERSION_1.encode())
    with Database(database_url).connection("test") as connection:
        assert ledger_version.upgrade(connection)


def test_an_upgraded_ledger_is_like_a_new_one(postgres: str, database_url: str) -> None:
    upgraded(database_url)
    with fresh_database(postgres) as new_url:
        with Database(new_url).connection("test") as connection:
            target_table.prepare(connection)
        for what, catalog in CATALOG.items():
            assert query(database_url, catalog) == query(new_url, catalog), what


def test_an_upgrade_keeps_each_import_and_records_the_oids_of_its_tables(database_url: str) -> None:
    upgraded(database_url)
    with Database(database_url).connection("test") as connection:
        found = ledger.select_imports(connection)
        assert [(each.import_key, each.state) for each in found] == [
            (1, "published"),
            (2, "removing"),
            (3, "loading"),
        ]
        assert [ledger.totals(connection, each.import_key).rows_copied for each in found] == [3, 5, 4]
        assert [each.line for each in ledger.rejects(connection, 1)] == [5]
    tables = "SELECT import_key, table_oid::regclass::text FROM loader.import ORDER BY 1"
    assert query(database_url, tables) == [(key, f"loader.import_{key}") for key in (1, 2, 3)]
    tables = "SELECT part, table_oid::regclass::text FROM loader.part ORDER BY 1"
    assert query(database_url, tables) == [
        (part, f"loader.import_{key}_part_{part}") for key, part in ((1, 1), (2, 2), (3, 5))
    ]
    assert query(database_url, "SELECT record_count FROM loader.block ORDER BY import_key") == [
        (4,),
        (5,),
        (4,),
    ]


def test_programs_can_upgrade_one_ledger_at_the_same_time(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(VERSION_1.encode())

    def upgrade(_: int) -> bool:
        with Database(database_url).connection("test") as connection:
            return ledger_version.upgrade(connection)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(upgrade, range(8))) == [True] * 8
    assert query(database_url, "SELECT version FROM loader.ledger") == [(ledger_version.VERSION,)]


def test_loaders_can_create_one_ledger_at_the_same_time(database_url: str) -> None:
    barrier = Barrier(8)

    def prepare(_: int) -> None:
        with Database(database_url).connection("test") as connection:
            assert not ledger_version.upgrade(connection)
            barrier.wait()
            target_table.prepare(connection)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare, range(8)))
    assert query(database_url, "SELECT count(*) FROM loader.ledger") == [(1,)]


def test_an_upgrade_that_fails_changes_nothing(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(VERSION_1.encode())
        connection.execute("INSERT INTO loader.reject SELECT * FROM loader.reject")  # no key can be made
    with (
        pytest.raises(LoaderError),
        Database(database_url).connection("test") as connection,
    ):
        ledger_version.upgrade(connection)
    assert query(database_url, "SELECT to_regclass('loader.ledger') IS NULL") == [(True,)]


def test_an_upgrade_waits_only_briefly_for_a_loader_of_the_older_version(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(VERSION_1.encode())
    with psycopg.connect(database_url) as older:
        older.execute("INSERT INTO loader.part (import_key) VALUES (3)")
        with (
            pytest.raises(LoaderError) as raised,
            Database(database_url).connection("test") as connection,
        ):
            ledger_version.upgrade(connection, lock_seconds=1)
        assert raised.value.code is FailureCode.IMPORT_BUSY


def test_a_ledger_of_a_newer_version_is_refused(loaders: Loaders, database_url: str) -> None:
    with Database(database_url).connection("test") as connection:
        target_table.prepare(connection)
        connection.execute("UPDATE loader.ledger SET version = version + 1")
    loader = loaders.start("imports")
    assert loader.wait() == 78
    assert "Use the newer version" in loader.stderr


def test_after_a_restore_the_tables_are_found_by_their_names(database_url: str) -> None:
    upgraded(database_url)
    with Database(database_url).connection("test") as connection:
        # As a dump of another database would have it, restored here: its OIDs mean nothing, or other tables.
        connection.execute("UPDATE loader.ledger SET oid_scope = 'another database'")
        connection.execute("UPDATE loader.import SET table_oid = 'pg_class'::regclass")
        connection.execute("UPDATE loader.part SET table_oid = 'pg_class'::regclass")
        assert ledger_version.upgrade(connection)
    tables = "SELECT import_key, table_oid::regclass::text FROM loader.import ORDER BY 1"
    assert query(database_url, tables) == [(key, f"loader.import_{key}") for key in (1, 2, 3)]
    assert query(database_url, "SELECT count(*) FROM loader.part WHERE table_oid = 'pg_class'::regclass") == [
        (0,)
    ]


def test_another_system_with_the_same_oids_keeps_them(database_url: str) -> None:
    """As pg_upgrade leaves it: a table that was renamed is known by its OID alone."""
    upgraded(database_url)
    oids = "SELECT import_key, table_oid FROM loader.import ORDER BY 1"
    before = query(database_url, oids)
    with Database(database_url).connection("test") as connection:
        connection.execute("ALTER TABLE loader.import_1 RENAME TO january")
        connection.execute("UPDATE loader.ledger SET oid_scope = '0/0/' || 'loader.ledger'::regclass::oid")
        assert ledger_version.upgrade(connection)
    assert query(database_url, oids) == before


def test_after_a_restore_a_table_without_its_name_has_no_oid(database_url: str) -> None:
    upgraded(database_url)
    with Database(database_url).connection("test") as connection:
        connection.execute("ALTER TABLE loader.import_1 RENAME TO january")
        connection.execute("CREATE VIEW loader.import_1 AS SELECT 1")
        connection.execute("UPDATE loader.ledger SET oid_scope = 'another database'")
        connection.execute("UPDATE loader.import SET table_oid = 'pg_class'::regclass")
        assert ledger_version.upgrade(connection)
    assert query(database_url, "SELECT table_oid FROM loader.import WHERE import_key = 1") == [(None,)]


def staged_file(database_url: str, path: Path) -> None:
    """Write the file of the staged import: its rows as COPY puts them, and its header as the source has it."""
    names = ", ".join(column.name for column in COLUMNS[: LAYOUT_COLUMN_COUNTS[0]])
    with psycopg.connect(database_url, autocommit=True) as connection, path.open("wb") as file:
        file.write(",".join(column.header for column in COLUMNS[: LAYOUT_COLUMN_COUNTS[0]]).encode() + b"\n")
        data_start = file.tell()
        statement = f"COPY (SELECT {names} FROM loader.import_3_part_5) TO STDOUT (FORMAT csv)".encode()
        with connection.cursor().copy(statement) as copy:
            for data in copy:
                file.write(data)
        file.flush()
        info = open_source(str(path)).probe()
        connection.execute(
            "UPDATE loader.import SET location = %s, source_bytes = %s, validator = %s, data_start = %s"
            " WHERE import_key = 3",
            [str(path), file.tell(), info.validator, data_start],
        )
        connection.execute(
            "UPDATE loader.block SET byte_start = %s, byte_end = %s WHERE import_key = 3",
            [data_start, file.tell()],
        )


@pytest.mark.slow
def test_imports_of_version_1_are_resumed_replaced_and_dropped(
    database_url: str, tmp_path: Path, sample: bytes
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(VERSION_1.encode())
        published, staged = (
            connection.execute("SELECT id FROM loader.import WHERE import_key = %s", [key]).fetchall()[0][0]
            for key in (1, 3)
        )
    path = tmp_path / "b.csv"
    staged_file(database_url, path)
    operator = Operator(database_url, tmp_path, sample)
    end = operator.run(Job(source=str(path)))
    assert isinstance(end, Published), end
    assert (end.receipt.import_id, end.receipt.rows_published) == (str(staged), 4)
    assert operator.count("trips") == 3 + 4
    commands.drop(database_url, published, published=True)
    assert operator.count("trips") == 4
    assert operator.load(mode="replace").rows_published == operator.count("trips")
    assert_nothing_is_left(database_url)  # that includes the one that was being removed
