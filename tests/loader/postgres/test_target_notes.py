"""Imported rows and triggers, logical replication, pg_dump, locks of readers: what happens, and the notes on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from loader.contract import Probed
from tests.support.http_server import HttpServer
from tests.support.loader_process import Loaders, query, row_count, with_limits
from tests.support.postgres_server import installed, own_server
from tests.support.target import execute

pytestmark = pytest.mark.slow


def test_a_note_names_the_triggers_and_rules_that_imports_do_not_run(
    loaders: Loaders, server: HttpServer
) -> None:
    assert loaders.start("run", server.url).receipt().notes == []
    url = loaders.database_url
    execute(
        url,
        "CREATE TABLE fired (what text)",
        "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN INSERT INTO fired VALUES (TG_NAME); RETURN NULL; END'",
        "CREATE TRIGGER of_rows AFTER INSERT OR DELETE ON trips FOR EACH ROW EXECUTE FUNCTION fire()",
        "CREATE TRIGGER of_statements AFTER INSERT OR DELETE OR TRUNCATE ON trips EXECUTE FUNCTION fire()",
        "CREATE TRIGGER disabled AFTER INSERT ON trips EXECUTE FUNCTION fire()",
        "ALTER TABLE trips DISABLE TRIGGER disabled",
        "CREATE RULE of_inserts AS ON INSERT TO trips DO ALSO INSERT INTO fired VALUES ('rule')",
    )
    run = loaders.start("run", server.url, "--mode", "replace")
    notes = ["Imports run none of the triggers and rules of trips: of_inserts, of_rows, of_statements."]
    assert run.receipt().notes == notes
    assert [message.notes for message in run.messages() if isinstance(message, Probed)] == [notes]
    assert query(url, "SELECT * FROM fired") == []
    assert row_count(url) > 0


def test_a_publication_sends_no_imported_row_or_with_all_tables_the_staging(
    server: HttpServer, tmp_path: Path
) -> None:
    """Decoded by pgoutput, as for a subscriber; its message of an inserted row begins with an I."""
    with own_server(settings={"wal_level": "logical"}) as own:
        loaders = Loaders(tmp_path, own.url)
        loaders.start("run", server.url).receipt()
        execute(
            own.url,
            "CREATE TABLE other (value integer PRIMARY KEY)",
            "CREATE PUBLICATION by_part FOR TABLE trips, other",
            "CREATE PUBLICATION by_root FOR TABLE trips, other WITH (publish_via_partition_root)",
            "CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA public",
            "CREATE PUBLICATION of_all FOR ALL TABLES",
            "SELECT pg_create_logical_replication_slot('slot', 'pgoutput')",
        )
        receipt = loaders.start("run", server.url, "--force").receipt()
        execute(own.url, "INSERT INTO other VALUES (1)")
        sent = {
            publication: query(
                own.url,
                "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('slot', NULL, NULL, 'proto_version', '1',"
                f" 'publication_names', '{publication}') WHERE get_byte(data, 0) = ascii('I')",
            )[0][0]
            for publication in ("by_part", "by_root", "by_schema", "of_all")
        }
        assert (sent["by_part"], sent["by_root"], sent["by_schema"]) == (1, 1, 1)
        assert isinstance(sent["of_all"], int)
        assert sent["of_all"] > receipt.rows_published
        assert receipt.notes == [
            "Logical replication does not send imported rows of trips: publication by_part, by_root, by_schema.",
            "Logical replication stops at the first imported row, until its subscribers have the tables of the import:"
            " publication of_all FOR ALL TABLES.",
        ]


def test_a_dump_of_trips_or_of_its_schema_alone_has_no_rows(loaders: Loaders, server: HttpServer) -> None:
    rows = loaders.start("run", server.url).receipt().rows_published

    def dumped_rows(*options: str) -> int:
        program = installed()[18] / "pg_dump"
        command = [program, "--data-only", *options, loaders.database_url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("\nHV")

    assert dumped_rows("--table=trips") == dumped_rows("--schema=public") == 0
    assert dumped_rows("--table-and-children=trips") == rows
    assert dumped_rows("--schema=public", "--schema=loader") == dumped_rows() == rows


def test_a_note_reports_that_readers_of_trips_may_run_out_of_locks(
    server: HttpServer, tmp_path: Path
) -> None:
    with own_server(settings={"max_locks_per_transaction": "20"}) as own:
        loaders = Loaders(tmp_path, own.url)
        one_part = with_limits(one_part_bytes=1_000_000_000, min_part_bytes=1_000_000_000)

        def notes() -> list[str]:
            run = loaders.start("run", server.url, "--force", environment=one_part)
            found = run.receipt().notes
            assert [message.notes for message in run.messages() if isinstance(message, Probed)] == [found]
            return [note for note in found if "locks" in note]

        assert notes() == []
        execute(own.url, "CREATE INDEX ON trips (pickup_datetime)", "CREATE INDEX ON trips (tolls)")
        assert notes() == []
        (note,) = notes()
        with psycopg.connect(own.url) as reader:
            reader.execute("SELECT count(*) FROM trips")
            locks = reader.execute(
                "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation >= 16384"
            ).fetchone()
        assert locks == ((1 + 3 + 3) * (1 + 2),)
        assert "locks about 21 tables" in note
        assert "max_locks_per_transaction = 20" in note
        assert "Set it to at least 21" in note
