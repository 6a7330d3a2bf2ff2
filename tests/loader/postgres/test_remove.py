"""A removal drops the tables of an import, and only those."""

from __future__ import annotations

import pytest

from loader.cancellation import Interrupt
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres import import_lock, ledger, remove
from loader.postgres.connection import Connection
from tests.support.staged_import import publish_staged, stage


def test_a_published_import_is_only_marked_where_that_is_allowed(connection: Connection) -> None:
    staged = stage(connection)
    publish_staged(connection, staged)
    key = staged.attempt.import_key
    assert not remove.mark(connection, key, published=False)
    assert ledger.get_import(connection, staged.id).state == "published"
    assert not remove.mark(connection, key + 1, published=True)
    assert remove.mark(connection, key, published=True)
    marked = ledger.get_import(connection, staged.id)
    assert (marked.state, marked.attempt) == ("removing", staged.attempt.number + 1)


@pytest.mark.parametrize("is_published", [False, True])
def test_a_removal_reports_its_parts_and_leaves_nothing(connection: Connection, is_published: bool) -> None:
    staged = stage(connection)
    if is_published:
        publish_staged(connection, staged)
    key = staged.attempt.import_key
    assert remove.mark(connection, key, published=is_published)
    reported: list[tuple[int, int]] = []
    remove.remove(connection, key, Interrupt(), lambda count, total: reported.append((count, total)), 1)
    assert reported == [(0, 2), (1, 2), (2, 2)]
    tables = "SELECT relname FROM pg_class WHERE relname LIKE 'import\\_%%' AND relkind IN ('r', 'p')"
    assert connection.execute(tables).fetchall() == []
    assert ledger.find_import(connection, staged.id) is None
    assert ledger.parts(connection, key) == []


def test_staging_whose_table_was_moved_loses_its_record_alone(connection: Connection) -> None:
    staged = stage(connection)
    key = staged.attempt.import_key
    connection.execute(f"ALTER TABLE {staged.table} RENAME TO mine".encode())
    assert remove.mark(connection, key, published=False)
    remove.remove(connection, key, Interrupt(), lambda _part, _parts: None, 1)
    assert ledger.find_import(connection, staged.id) is None
    assert connection.execute("SELECT count(*) FROM loader.mine").fetchone() == (6,)


def test_an_import_that_a_foreign_key_keeps_in_trips_is_published_again(connection: Connection) -> None:
    staged = stage(connection)
    publish_staged(connection, staged)
    key = staged.attempt.import_key
    connection.execute("ALTER TABLE trips ADD UNIQUE (import_key, part, trip_miles)")
    connection.execute("CREATE TABLE notes AS SELECT import_key, part, trip_miles FROM trips LIMIT 1")
    connection.execute(
        "ALTER TABLE notes ADD FOREIGN KEY (import_key, part, trip_miles) REFERENCES trips (import_key, part, trip_miles)"
    )
    assert remove.mark(connection, key, published=True)
    with pytest.raises(LoaderError, match="notes") as raised:
        remove.remove(connection, key, Interrupt(), lambda _part, _parts: None, 1)
    assert raised.value.code is FailureCode.TABLE_REFERENCED
    assert ledger.get_import(connection, staged.id).state == "published"
    assert connection.execute("SELECT count(*) FROM trips").fetchone() == (6,)


def test_an_import_of_a_renamed_trips_is_not_marked(connection: Connection) -> None:
    staged = stage(connection)
    publish_staged(connection, staged)
    connection.execute("ALTER TABLE trips RENAME TO old_trips")
    with pytest.raises(LoaderError, match="old_trips") as raised:
        remove.mark(connection, staged.attempt.import_key, published=True)
    assert raised.value.code is FailureCode.IMPORT_DETACHED


def test_a_detached_import_is_not_marked_and_one_that_moves_later_is_published_again(
    connection: Connection,
) -> None:
    staged = stage(connection)
    publish_staged(connection, staged)
    key = staged.attempt.import_key
    connection.execute("CREATE SCHEMA archive")
    connection.execute(f"ALTER TABLE trips DETACH PARTITION {staged.table}".encode())
    with pytest.raises(LoaderError) as raised:
        remove.mark(connection, key, published=True)
    assert raised.value.code is FailureCode.IMPORT_DETACHED
    connection.execute("UPDATE loader.import SET state = 'removing'")
    connection.execute(f"ALTER TABLE {staged.table} SET SCHEMA archive".encode())
    with pytest.raises(LoaderError) as raised:
        remove.remove(connection, key, Interrupt(), lambda _part, _parts: None, 1)
    assert raised.value.code is FailureCode.IMPORT_DETACHED
    assert ledger.get_import(connection, staged.id).state == "published"
    assert connection.execute(f"SELECT count(*) FROM archive.import_{key}".encode()).fetchone() == (6,)


def test_only_imports_that_no_session_has_locked_are_orphaned(
    connection: Connection, other: Connection
) -> None:
    held, orphaned, published = (stage(connection) for _ in range(3))
    publish_staged(connection, published)
    assert import_lock.try_lock(other, held.attempt.import_key)
    assert [each.id for each in remove.orphaned(connection, "loading", "removing")] == [orphaned.id]
    assert import_lock.try_lock(other, orphaned.attempt.import_key)  # released again
