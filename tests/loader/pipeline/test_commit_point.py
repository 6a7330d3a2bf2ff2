"""Once the publish's commit has started, only the ledger knows its result: signals and lost connections wait for it."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest

from loader import contract
from loader.postgres import target_table
from loader.postgres.connection import Database
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    LoaderProcess,
    Loaders,
    assert_nothing_is_left,
    assert_staging_is_whole,
    committed_rows,
    query,
    row_count,
    wait_for,
)
from tests.support.mid_load import COMMITS, SLOW_COMMIT, backends, resume_serving, start_until_stalled
from tests.support.postgres_proxy import Proxy

pytestmark = pytest.mark.slow


def start_until_it_commits(loaders: Loaders, server: HttpServer) -> LoaderProcess:
    """Start a run, and wait until it is in the commit of its publish, which takes a second."""
    loader = start_until_stalled(loaders, server)
    with psycopg.connect(loaders.database_url) as connection:
        connection.execute(SLOW_COMMIT.encode())
    resume_serving(server)
    wait_for("the commit", lambda: query(loaders.database_url, COMMITS) != [])
    return loader


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_commit_waits_for_its_response(
    number: signal.Signals, loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_it_commits(loaders, server)
    loader.send(number)
    assert loader.receipt().rows_published == row_count(loaders.database_url) > 0
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGHUP])
def test_a_lost_response_to_the_commit_is_in_the_ledger(
    number: signal.Signals | None, loaders: Loaders, server: HttpServer, tmp_path: Path
) -> None:
    with Proxy(loaders.database_url) as proxy:
        loader = start_until_it_commits(Loaders(tmp_path, proxy.url), server)
        proxy.loses_responses = True
        if number is not None:
            loader.send(number)
        wait_for("the commit's end", lambda: row_count(loaders.database_url) > 0)
        proxy.close_connections()
        assert loader.receipt().rows_published == row_count(loaders.database_url)
    assert_nothing_is_left(loaders.database_url)


def test_a_commit_that_failed_is_tried_again(loaders: Loaders, server: HttpServer) -> None:
    loader = start_until_it_commits(loaders, server)
    end_control(loaders)
    assert loader.receipt().attempts == 2
    assert_nothing_is_left(loaders.database_url)


def test_stopped_in_a_commit_that_then_failed_it_leaves_nothing(loaders: Loaders, server: HttpServer) -> None:
    loader = start_until_it_commits(loaders, server)
    loader.send(signal.SIGTERM)
    end_control(loaders)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.TERMINATED, "none")
    assert_nothing_is_left(loaders.database_url)


def test_suspended_in_a_commit_that_then_failed_it_keeps_what_is_loaded(
    loaders: Loaders, server: HttpServer
) -> None:
    loader = start_until_it_commits(loaders, server)
    loader.send(signal.SIGHUP)
    end_control(loaders)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.SUSPENDED, "kept")
    assert committed_rows(loaders.database_url) > row_count(loaders.database_url) == 0
    assert_staging_is_whole(loaders.database_url)


# Its sleep is neither ended by a cancel request nor by the client's end, as a commit that waits for a disk.
STUBBORN_COMMIT = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('client_connection_check_interval', '0', false);
    BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(3); END;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER stubborn_commit AFTER INSERT ON loader.import DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait()
"""


def test_stopped_in_the_commit_of_its_first_row_it_leaves_nothing(
    loaders: Loaders, server: HttpServer
) -> None:
    with Database(loaders.database_url).connection("test") as connection:
        target_table.prepare(connection)
        connection.execute(STUBBORN_COMMIT.encode())
    loader = loaders.start("run", server.url, "--import-id", "0190b2c4-0000-7000-8000-000000000009")
    wait_for("the commit", lambda: query(loaders.database_url, COMMITS) != [])
    loader.send(signal.SIGTERM)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (contract.FailureCode.TERMINATED, "none")
    assert_nothing_is_left(loaders.database_url)


def end_control(loaders: Loaders) -> None:
    """End the backend that commits."""
    for pid in backends(loaders, "control"):
        query(loaders.database_url, f"SELECT pg_terminate_backend({pid})")
