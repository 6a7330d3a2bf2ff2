"""An index created on trips during an import is built before the publish, part by part, and never by the attach."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest

from loader.contract import FailureCode, Job, ProgressMessage
from loader.postgres import publish
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    LoaderProcess,
    Loaders,
    assert_nothing_is_left,
    checksum,
    checksum_of,
    query,
    row_count,
    wait_until_disconnected,
)
from tests.support.mid_load import resume_serving, start_until_stalled
from tests.support.target import execute
from tests.support.whole_import import WholeImport

pytestmark = pytest.mark.slow

KEYS = "import_key, part, request_datetime, pickup_datetime, dropoff_datetime, trip_miles, driver_pay, tips"
# Changes of trips by an operator while an import loads, and the number of indexes that they add.
CHANGES = {
    "a column": ("CREATE INDEX ON trips (pickup_datetime)", 1),
    "all that an index can have": (
        'CREATE INDEX "a ON ONLY public.trips b" ON trips'
        ' (lower(hvfhs_license_num) COLLATE "C" text_pattern_ops DESC NULLS LAST)'
        " INCLUDE (tolls) WITH (fillfactor = 80) WHERE trip_miles > 1",
        1,
    ),
    "two alike": ("CREATE INDEX ON trips (tolls); CREATE INDEX ON trips (tolls)", 2),
    "one that is invalid": ("CREATE INDEX ON ONLY trips (tolls)", 1),
    "a unique index and a constraint": (
        f"CREATE UNIQUE INDEX ON trips ({KEYS}); ALTER TABLE trips ADD UNIQUE ({KEYS})",
        2,
    ),
    "a primary key": (
        "ALTER TABLE trips ADD PRIMARY KEY (import_key, part, request_datetime, trip_miles, trip_time, driver_pay)",
        1,
    ),
}
SLOW_FUNCTION = (
    "CREATE OR REPLACE FUNCTION slow(float8) RETURNS float8 IMMUTABLE LANGUAGE plpgsql"
    " AS 'BEGIN PERFORM pg_sleep(0.01); RETURN $1; END'"
)
# Takes minutes to build.
SLOW_INDEX = f"{SLOW_FUNCTION};\nCREATE INDEX ON trips (slow(tolls))"
# Of the parts of trips: how many indexes each has, how many of these belong to one of trips, and whether the transaction
# that published built one of them.
LEAVES = """
SELECT count(*), count(*) FILTER (WHERE i.relispartition AND indisvalid),
    bool_or(x.xmin::text IN (SELECT xmin::text FROM loader.import))
FROM pg_index x JOIN pg_class i ON i.oid = indexrelid JOIN loader.part ON indrelid = table_oid
GROUP BY indrelid
"""


def phases(loader: LoaderProcess) -> list[str]:
    """Return the phases that it reported, each once, in order."""
    reported = [message.phase for message in loader.messages() if isinstance(message, ProgressMessage)]
    return list(dict.fromkeys(reported))


def assert_built_before_the_publish(database_url: str, indexes: int) -> None:
    leaves = query(database_url, LEAVES)
    assert leaves
    assert set(leaves) == {(indexes, indexes, False)}


@pytest.mark.parametrize(("statements", "indexes"), CHANGES.values(), ids=CHANGES.keys())
def test_an_index_created_in_mid_load_is_built_before_the_publish(
    statements: str, indexes: int, loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    loader = start_until_stalled(loaders, server)
    execute(loaders.database_url, statements)
    resume_serving(server)
    assert loader.receipt().rows_published == row_count(loaders.database_url)
    assert phases(loader) == ["probing", "loading", "indexing", "publishing"]
    assert_built_before_the_publish(loaders.database_url, indexes)
    assert checksum(loaders.database_url) == checksum_of(loaders.database_url, sample)


def test_an_index_dropped_in_mid_load_changes_nothing(loaders: Loaders, server: HttpServer) -> None:
    assert loaders.start("run", server.url).receipt()
    execute(loaders.database_url, "CREATE INDEX gone ON trips (tolls); CREATE INDEX kept ON trips (tips)")
    loader = start_until_stalled(loaders, server, "--mode", "replace")
    execute(loaders.database_url, "DROP INDEX gone")
    resume_serving(server)
    assert loader.receipt().rows_published == row_count(loaders.database_url)
    assert phases(loader) == ["probing", "loading", "publishing"]


def test_an_index_created_just_before_the_publish_is_built_first(
    monkeypatch: pytest.MonkeyPatch, database_url: str, sample: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    publish_now = publish.publish
    tries: list[int] = []

    def publish_late(*arguments: object) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            if not tries:
                connection.execute("CREATE INDEX ON trips (tolls)")
            tries.append(1)
        publish_now(*arguments)  # pyright: ignore[reportArgumentType] - passed on as they are

    monkeypatch.setattr(publish, "publish", publish_late)
    WholeImport(database_url, sample).succeeds(Job(str(path)))
    assert len(tries) == 2
    assert_built_before_the_publish(database_url, 1)


def test_killed_while_indexing_the_next_attempt_builds_the_missing_indexes(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    loader = start_until_stalled(loaders, server)
    execute(loaders.database_url, SLOW_INDEX)
    resume_serving(server)
    loader.wait_for_phase("indexing")
    assert row_count(loaders.database_url) == 0
    loader.send(signal.SIGKILL)
    loader.wait()
    wait_until_disconnected(loaders.database_url)
    execute(loaders.database_url, SLOW_FUNCTION.replace("PERFORM pg_sleep(0.01);", ""))
    again = loaders.start("run", server.url)
    assert again.receipt().attempts == 2
    assert "indexing" in phases(again)
    assert_built_before_the_publish(loaders.database_url, 1)
    assert checksum(loaders.database_url) == checksum_of(loaders.database_url, sample)
    assert_nothing_is_left(loaders.database_url)


def test_while_indexes_are_built_readers_read_and_sigterm_stops_the_import(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_stalled(loaders, server)
    execute(loaders.database_url, SLOW_INDEX)
    resume_serving(server)
    loader.wait_for_phase("indexing")
    with psycopg.connect(loaders.database_url) as reader:
        reader.execute("SET lock_timeout = '1ms'")
        assert reader.execute("SELECT count(*) FROM trips").fetchone() == (0,)
    loader.send(signal.SIGTERM)
    assert loader.failure().failure.code is FailureCode.TERMINATED
    assert_nothing_is_left(loaders.database_url)


def test_a_row_that_violates_a_new_unique_index_keeps_the_staging(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    loader = start_until_stalled(loaders, server)
    execute(
        loaders.database_url,
        "CREATE UNIQUE INDEX one_a_company ON trips (import_key, part, hvfhs_license_num)",
    )
    resume_serving(server)
    failed = loader.failure()
    assert (failed.failure.code, failed.staging) == (FailureCode.TABLE_MISMATCH, "kept")
    execute(loaders.database_url, "DROP INDEX one_a_company")
    assert loaders.start("run", server.url).receipt().attempts == 2
    assert checksum(loaders.database_url) == checksum_of(loaders.database_url, sample)
