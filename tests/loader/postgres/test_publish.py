"""A publish shows all rows of an import at once, or none."""

from __future__ import annotations

import threading

import pytest
from psycopg import errors as pg

from loader.cancellation import Interrupt, Stopped, StopReason
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres import import_lock, ledger, publish
from loader.postgres.connection import Connection
from tests.support.loader_process import wait_for
from tests.support.staged_import import IMPATIENT, StagedImport, publish_staged, stage


def row_counts(connection: Connection) -> dict[object, object]:
    """Return the number of rows in trips by import_key."""
    found = connection.execute("SELECT import_key, count(*) FROM trips GROUP BY import_key").fetchall()
    return {row[0]: row[1] for row in found}


def assert_refused(connection: Connection, staged: StagedImport, code: FailureCode, word: str) -> None:
    with pytest.raises(LoaderError) as raised:
        publish_staged(connection, staged)
    assert raised.value.code is code
    assert word in raised.value.failure.message
    assert ledger.get_import(connection, staged.id).state == "loading"


def test_a_publish_shows_all_rows_and_stores_the_receipt(connection: Connection) -> None:
    staged = stage(connection)
    assert row_counts(connection) == {}
    publish_staged(connection, staged)
    assert row_counts(connection) == {staged.attempt.import_key: 6}
    published = ledger.get_import(connection, staged.id)
    assert published.state == "published"
    assert published.receipt is not None
    options = connection.execute(
        "SELECT reloptions FROM pg_class WHERE oid = %s::regclass", [staged.part_table(0)]
    ).fetchone()
    assert options == (None,)  # autovacuum is on again


def test_an_older_attempt_publishes_nothing(connection: Connection) -> None:
    staged = stage(connection)
    import_lock.begin_attempt(connection, staged.attempt.import_key)
    assert_refused(connection, staged, FailureCode.IMPORT_BUSY, "taken over")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("ALTER TABLE trips ADD mine text", "column mine"),
        ("ALTER TABLE trips DROP tips", "column tips"),
        ("ALTER TABLE trips ALTER tips TYPE numeric", "column tips"),
        ("DROP TABLE trips", "does not exist"),
        ("ALTER TABLE {table} ADD mine text", "column mine"),
        ("DROP TABLE {table}; CREATE TABLE {table} (LIKE trips) PARTITION BY LIST (part)", "was dropped"),
        ("TRUNCATE {part}", "lost its rows"),
        ("CREATE TABLE mine PARTITION OF {table} FOR VALUES IN (77)", "partitions of {table}"),
        ("ALTER TABLE {table} DETACH PARTITION {part}", "partitions of {table}"),
        ("CREATE TABLE mine PARTITION OF trips FOR VALUES IN ({key})", "mine"),
    ],
)
def test_a_change_before_the_publish_is_refused_until_it_is_undone(
    change: str, word: str, connection: Connection
) -> None:
    staged = stage(connection)
    names = {"table": staged.table, "part": staged.part_table(1), "key": staged.attempt.import_key}
    connection.execute(change.format(**names).encode())
    assert_refused(connection, staged, FailureCode.TABLE_CHANGED, word.format(**names))


def test_after_a_refused_publish_a_stop_is_effective(connection: Connection) -> None:
    staged = stage(connection)
    interrupt = Interrupt()
    connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'"
    )
    connection.execute(
        "CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON loader.import DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(pg.RaiseException):
        publish_staged(connection, staged, interrupt=interrupt)
    assert interrupt.has_started_commit
    interrupt.request(StopReason.TERMINATED)
    assert interrupt.is_effective
    with pytest.raises(Stopped):
        publish_staged(connection, staged, interrupt=interrupt)
    assert row_counts(connection) == {}


def test_readers_of_parts_have_a_limit_of_their_own(connection: Connection, other: Connection) -> None:
    staged = stage(connection)
    limits = type(IMPATIENT)(trips_lock_seconds=0.05, staging_lock_seconds=60)
    with other.transaction():
        other.execute(f"SELECT FROM {staged.part_table(0)}".encode())
        with pytest.raises(LoaderError) as raised:
            publish_staged(connection, staged)
        assert raised.value.code is FailureCode.TABLE_LOCKED
        publishing = threading.Thread(
            target=publish_staged, args=[connection, staged], kwargs={"limits": limits}
        )
        publishing.start()
        waits = (
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE '%% test'"
        )
        wait_for("a wait for the reader", lambda: other.execute(waits).fetchone() is not None)
        publishing.join(0.2)
        assert publishing.is_alive()
    publishing.join()
    assert row_counts(connection) == {staged.attempt.import_key: 6}


def test_a_replace_marks_and_detaches_all_other_imports(connection: Connection) -> None:
    first, second = stage(connection), stage(connection)
    publish_staged(connection, first)
    publish_staged(connection, second)
    third = stage(connection, mode="replace")
    publish_staged(connection, third)
    assert row_counts(connection) == {third.attempt.import_key: 6}
    states = [ledger.get_import(connection, each.id).state for each in (first, second, third)]
    assert states == ["removing", "removing", "published"]


def test_statistics_of_trips_are_refreshed_from_the_first_version_that_can(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_staged(connection, stage(connection))
    rows = "SELECT reltuples FROM pg_class WHERE oid = 'trips'::regclass"
    for version, expected in ((connection.info.server_version + 1, -1), (connection.info.server_version, 6)):
        monkeypatch.setattr(publish, "ANALYZE_ONLY_SERVER", version)
        publish.analyze(connection)
        assert connection.execute(rows).fetchone() == (expected,)
    assert connection.execute("SHOW lock_timeout").fetchone() == (
        "1s",
    )  # readers of trips don't queue behind it
