"""The tables of imports and parts are found wherever operators put them."""

from __future__ import annotations

import pytest

from loader.postgres import import_tables, ledger
from loader.postgres.connection import Connection
from loader.postgres.import_tables import Missing
from tests.support.staged_import import publish_staged, stage


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("ALTER TABLE trips DETACH PARTITION {table}", "its table is now {table}, detached from trips"),
        ("DROP TABLE {table}", "its table was dropped"),
        ("ALTER TABLE trips RENAME TO old_trips", "its table is now {table}, a partition of old_trips"),
    ],
)
def test_a_message_names_the_place_of_a_table_outside_trips(
    change: str, where: str, connection: Connection
) -> None:
    staged = stage(connection)
    publish_staged(connection, staged)
    published = ledger.get_import(connection, staged.id)
    assert import_tables.find_missing(connection, published) is None
    connection.execute(change.format(table=staged.table).encode())
    missing = import_tables.find_missing(connection, published)
    assert missing == Missing(is_all=True, what=where.format(table=staged.table))


def test_parts_without_rows_are_missing_and_locked_ones_are_not(
    connection: Connection, other: Connection
) -> None:
    staged = stage(connection)
    publish_staged(connection, staged)
    published = ledger.get_import(connection, staged.id)
    with other.transaction():
        other.execute(f"LOCK TABLE {staged.part_table(0)} IN ACCESS EXCLUSIVE MODE".encode())
        assert import_tables.find_missing(connection, published) is None
    for index, is_all in ((0, False), (1, True)):
        connection.execute(f"DELETE FROM {staged.part_table(index)}".encode())
        missing = import_tables.find_missing(connection, published)
        assert missing is not None
        assert missing.is_all == is_all
        assert missing.what == f"{index + 1} of its 2 parts are empty, dropped or moved elsewhere"


def test_staged_parts_that_are_not_attached_are_lost_unless_they_have_their_name(
    connection: Connection,
) -> None:
    staged = stage(connection, parts=4)
    key = staged.attempt.import_key
    assert import_tables.has_its_parts(connection, key)
    for index, change in enumerate(
        (
            "ALTER TABLE {table} DETACH PARTITION {part}",  # attached again by the next attempt
            "ALTER TABLE {table} DETACH PARTITION {part}; ALTER TABLE {part} RENAME TO mine",
            "DROP TABLE {part}",
            "ALTER TABLE {part} RENAME TO yours",  # still attached
        )
    ):
        connection.execute(change.format(table=staged.table, part=staged.part_table(index)).encode())
    assert import_tables.lost_parts(connection, key) == staged.parts[1:3]
    assert not import_tables.has_its_parts(connection, key)
