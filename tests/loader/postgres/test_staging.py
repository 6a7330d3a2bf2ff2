"""The import's table gets what trips has, or the reason why it can't is named."""

from __future__ import annotations

import pytest

from loader.cancellation import Interrupt
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres import ledger, staging
from loader.postgres.connection import Connection
from loader.postgres.indexing import IndexMissing
from tests.support.staged_import import IMPATIENT, publish_staged, stage


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("CREATE UNIQUE INDEX ON trips (import_key, trip_miles)", "unique constraint"),
        ("CREATE TABLE loader.import_1 (mine integer)", "loader.import_1"),
    ],
)
def test_an_import_table_that_can_not_be_created_is_a_table_mismatch(
    change: str, word: str, connection: Connection
) -> None:
    connection.execute(change.encode())
    with pytest.raises(LoaderError, match=word) as raised:
        stage(connection)
    assert raised.value.code is FailureCode.TABLE_MISMATCH


def test_an_index_created_on_trips_is_built_before_the_publish(connection: Connection) -> None:
    staged = stage(connection)
    connection.execute("CREATE INDEX ON trips (tolls)")
    with pytest.raises(IndexMissing):
        publish_staged(connection, staged)
    assert ledger.get_import(connection, staged.id).state == "loading"
    reported: list[tuple[int, int]] = []
    key = staged.attempt.import_key
    staging.build_indexes(
        connection, key, Interrupt(), IMPATIENT, lambda done, total: reported.append((done, total))
    )
    total = reported[0][1]
    assert total > 0
    assert [done for done, _ in reported] == [0, total // 2, total, total]
    publish_staged(connection, staged)
    assert ledger.get_import(connection, staged.id).state == "published"


def test_a_table_that_was_created_before_is_kept(connection: Connection) -> None:
    staged = stage(connection)
    staging.create_import_table(connection, staged.attempt.import_key, Interrupt(), IMPATIENT)
    publish_staged(connection, staged)
    assert connection.execute("SELECT count(*) FROM trips").fetchone() == (6,)
