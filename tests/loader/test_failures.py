"""Each failure code, provoked for real: its message and exit code, and that nothing visible or staged is left."""

from __future__ import annotations

import gzip
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import psycopg
import pytest

from loader.contract import Failed, Failure, FailureCode, Job
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.loader_process import (
    LoaderProcess,
    assert_nothing_is_left,
    committed_rows,
    query,
    row_count,
    wait_for,
    with_lock_limit,
)
from tests.support.mid_load import REFERENCE
from tests.support.target import execute

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

Test = TypeVar("Test", bound=Callable[..., None])
PROVOKED: set[FailureCode] = set()


def provokes(*codes: FailureCode) -> Callable[[Test], Test]:
    """Note which codes a test is about."""
    PROVOKED.update(codes)
    return lambda test: test


def test_every_failure_code_is_provoked_here() -> None:
    in_test_attempts = {FailureCode.LOADER_KILLED}  # no loader reports this of itself
    assert set(FailureCode) - PROVOKED == in_test_attempts


class LoaderHarness:
    """A sample, a server for it, a fresh database."""

    def __init__(self, folder: Path, database_url: str, sample: bytes, server: HttpServer) -> None:
        self.folder = folder
        self.database_url = database_url
        self.sample = sample
        self.server = server

    def start(
        self, source: str | None = None, *options: str, database_url: str | None = None
    ) -> LoaderProcess:
        return LoaderProcess(
            self.folder,
            "run",
            source or self.server.url,
            *options,
            database_url=database_url or self.database_url,
            small=True,
        )

    def fails(
        self,
        code: FailureCode,
        source: str | None = None,
        *options: str,
        database_url: str | None = None,
        staging: Literal["none", "kept"] = "none",
    ) -> Failure:
        """Run; see the code, that nothing of it is visible, and what is left: nothing, or staging, which gc collects."""
        rows_before = row_count(self.database_url)
        failed = self.start(source, *options, database_url=database_url).failure()
        assert failed.failure.code is code, failed.failure
        assert failed.failure.hint
        assert row_count(self.database_url) == rows_before
        assert failed.staging == staging
        if staging == "kept":
            assert committed_rows(self.database_url) > 0
            assert LoaderProcess(self.folder, "gc", database_url=self.database_url).wait() == 0
        assert_nothing_is_left(self.database_url)
        return failed.failure

    def serve(self, content: bytes) -> None:
        self.server.content = content

    def execute(self, *statements: str) -> None:
        execute(self.database_url, *statements)

    def with_row(self, row: bytes, at: int = 5000) -> tuple[bytes, int]:
        """Return the sample with a row put in as line `at`, and the row's byte offset."""
        lines = self.sample.splitlines(keepends=True)
        lines[at - 1 : at - 1] = [row + b"\n"]
        return b"".join(lines), sum(map(len, lines[: at - 1]))


@pytest.fixture
def harness(tmp_path: Path, database_url: str, sample: bytes) -> Generator[LoaderHarness]:
    with HttpServer(sample) as server:
        yield LoaderHarness(tmp_path, database_url, sample, server)


@provokes(FailureCode.USAGE)
@pytest.mark.parametrize("source", ["ftp://example.org/x", "http://exa mple/x", "http://"])
def test_an_invalid_url_is_a_usage_error(harness: LoaderHarness, source: str) -> None:
    harness.fails(FailureCode.USAGE, source)


@provokes(FailureCode.HEADER_MISMATCH)
def test_another_table_is_refused_before_anything_is_made(harness: LoaderHarness) -> None:
    harness.serve(b"VendorID,tpep_pickup_datetime\n1,2024-01-01\n")
    failure = harness.fails(FailureCode.HEADER_MISMATCH)
    assert "VendorID" in failure.message
    assert query(harness.database_url, "SELECT to_regclass('trips'), to_regnamespace('loader')") == [
        (None, None)
    ]


@provokes(FailureCode.EMPTY_FILE)
@pytest.mark.parametrize("lines", [0, 1])
def test_an_empty_file_and_a_bare_header_are_refused(harness: LoaderHarness, lines: int) -> None:
    harness.serve(b"".join(harness.sample.splitlines(keepends=True)[:lines]))
    harness.fails(FailureCode.EMPTY_FILE)


@provokes(FailureCode.NOT_CSV)
def test_an_error_page_in_place_of_the_file_is_refused(harness: LoaderHarness) -> None:
    harness.serve(b"<html><body>Not here any more.\n</body></html>")
    harness.fails(FailureCode.NOT_CSV)


@provokes(FailureCode.BAD_ROW)
def test_the_first_bad_row_ends_the_import_with_its_place(harness: LoaderHarness) -> None:
    fields = harness.sample.splitlines()[1].split(b",")
    fields[3] = b"2024-02-30 00:00:00"
    content, offset = harness.with_row(b",".join(fields))
    harness.serve(content + b"a worse row\n")  # of two bad rows the first is reported
    failure = harness.fails(FailureCode.BAD_ROW)
    assert (failure.line, failure.byte_offset, failure.column) == (5000, offset, "request_datetime")
    assert failure.value == "2024-02-30 00:00:00"


@provokes(FailureCode.TOO_MANY_REJECTS)
def test_one_reject_more_than_allowed_publishes_nothing(harness: LoaderHarness) -> None:
    content, _ = harness.with_row(b"bad")
    harness.serve(content + b"bad\n")
    harness.fails(FailureCode.TOO_MANY_REJECTS, None, "--max-rejects", "1")
    rows = content.count(b"\n")
    harness.fails(FailureCode.TOO_MANY_REJECTS, None, "--max-rejects", f"{100 * 1.9 / rows:.6f}%")


@provokes(FailureCode.RECORD_TOO_LONG)
def test_a_quote_that_is_never_closed_is_an_error_with_its_place(harness: LoaderHarness) -> None:
    content, offset = harness.with_row(b'"never closed')
    harness.serve(content)
    failure = harness.fails(FailureCode.RECORD_TOO_LONG)
    assert (failure.line, failure.byte_offset) == (5000, offset)


@provokes(FailureCode.ALREADY_IMPORTED)
def test_the_same_file_again_is_refused_unless_forced(harness: LoaderHarness) -> None:
    first = harness.start().receipt()
    failure = harness.fails(FailureCode.ALREADY_IMPORTED)
    assert first.import_id in failure.message
    harness.start(None, "--force").receipt()
    assert row_count(harness.database_url) == 2 * first.rows_published


@provokes(FailureCode.SOURCE_NOT_FOUND)
def test_a_missing_file_is_source_not_found(harness: LoaderHarness) -> None:
    harness.server.rule = lambda _: Fault(status=404)
    harness.fails(FailureCode.SOURCE_NOT_FOUND)
    harness.fails(FailureCode.SOURCE_NOT_FOUND, str(harness.folder / "no such file"))


@provokes(FailureCode.SOURCE_FORBIDDEN)
def test_a_signature_that_expires_during_the_import_is_source_forbidden(harness: LoaderHarness) -> None:
    harness.server.rule = lambda request: Fault(status=403) if request.number > 20 else None
    harness.fails(FailureCode.SOURCE_FORBIDDEN, harness.server.url + "?signature=canary", staging="kept")


@provokes(FailureCode.SOURCE_REFUSED)
def test_a_job_with_a_private_address_is_refused_unless_it_allows_the_host(harness: LoaderHarness) -> None:
    def run(*allowed: str) -> LoaderProcess:
        loader = LoaderProcess(
            harness.folder, "run", database_url=harness.database_url, small=True, stdin=subprocess.PIPE
        )
        assert loader.process.stdin is not None
        job = Job(source=harness.server.url, allowed_hosts=[*allowed])
        loader.process.stdin.write(msgspec.json.encode(job) + b"\n")
        loader.process.stdin.flush()
        return loader

    failed = run().failure()
    assert (failed.failure.code, failed.staging) == (FailureCode.SOURCE_REFUSED, "none")
    assert harness.server.connection_count == 0
    assert_nothing_is_left(harness.database_url)
    run(f"localhost:{harness.server.port}").receipt()


@provokes(FailureCode.SOURCE_UNREACHABLE)
def test_a_server_that_refuses_connections_is_unreachable(harness: LoaderHarness) -> None:
    with socket.socket() as bound:  # bound and not listening: no other process can take the port
        bound.bind(("127.0.0.1", 0))
        failed = harness.start(f"http://127.0.0.1:{bound.getsockname()[1]}/trips.csv").failure()
    assert failed.failure.code is FailureCode.SOURCE_UNREACHABLE
    assert failed.failure.retryable


@provokes(FailureCode.SOURCE_CHANGED)
def test_a_file_that_changes_during_the_import_is_not_published(harness: LoaderHarness) -> None:
    def change(request: Request) -> Fault | None:
        if request.number == 8:
            harness.server.etag = '"v2"'
        return None

    harness.server.rule = change
    harness.fails(FailureCode.SOURCE_CHANGED)


@provokes(FailureCode.SOURCE_TRUNCATED)
def test_a_truncated_download_does_not_count_as_complete(harness: LoaderHarness) -> None:
    harness.server.ranges = False
    harness.server.rule = lambda _: Fault(body_bytes=len(harness.sample) // 2)
    failed = harness.start().failure()
    assert failed.failure.code is FailureCode.SOURCE_TRUNCATED
    assert row_count(harness.database_url) == 0
    path = harness.folder / "trips.csv.gz"
    path.write_bytes(gzip.compress(harness.sample)[:-20])
    assert harness.start(str(path)).failure().failure.code is FailureCode.SOURCE_TRUNCATED


@provokes(FailureCode.LENGTH_UNVERIFIED)
def test_a_source_without_an_end_is_refused_where_one_is_asked_for(harness: LoaderHarness) -> None:
    harness.server.ranges = False
    harness.server.rule = lambda _: Fault(framing="close")
    failure = harness.fails(FailureCode.LENGTH_UNVERIFIED, None, "--require-verified-length")
    assert not failure.retryable


@provokes(FailureCode.SOURCE_CORRUPT)
def test_damage_in_a_compressed_file_is_found(harness: LoaderHarness) -> None:
    packed = bytearray(gzip.compress(harness.sample))
    packed[-6] ^= 1  # of the checksum
    harness.serve(bytes(packed))
    harness.fails(FailureCode.SOURCE_CORRUPT)


@provokes(FailureCode.SOURCE_PROTOCOL)
def test_ranges_that_are_not_those_asked_for_are_refused(harness: LoaderHarness) -> None:
    harness.server.rule = lambda request: (
        Fault(headers={"Content-Range": f"bytes 0-9/{len(harness.sample)}"}) if request.number > 20 else None
    )
    harness.fails(FailureCode.SOURCE_PROTOCOL, staging="kept")


@provokes(FailureCode.DATABASE_UNAVAILABLE)
def test_a_missing_database_server_is_database_unavailable(harness: LoaderHarness) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody:canary@127.0.0.1:{bound.getsockname()[1]}/none"
        failure = harness.fails(FailureCode.DATABASE_UNAVAILABLE, database_url=url)
    assert failure.retryable
    assert "canary" not in str(failure)


@provokes(FailureCode.OUT_OF_SPACE)
@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="only root can mount a tmpfs, on Linux"
)
def test_a_full_disk_is_out_of_space_and_keeps_what_is_committed(harness: LoaderHarness) -> None:
    mounted = harness.folder / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k,mode=777", "none", mounted], check=True)
    try:
        (mounted / "data").mkdir(mode=0o700)
        harness.execute(f"CREATE TABLESPACE small LOCATION '{mounted}/data'")
        name = query(harness.database_url, "SELECT current_database()")[0][0]
        harness.execute(f"ALTER DATABASE {name} SET default_tablespace = small")
        harness.fails(FailureCode.OUT_OF_SPACE, None, "--workers", "1", staging="kept")
        harness.execute("DROP TABLE trips", "DROP SCHEMA loader CASCADE", "DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", mounted], check=True)


@provokes(FailureCode.SUSPENDED, FailureCode.INTERRUPTED, FailureCode.TERMINATED)
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGHUP, FailureCode.SUSPENDED),
        (signal.SIGINT, FailureCode.INTERRUPTED),
        (signal.SIGTERM, FailureCode.TERMINATED),
    ],
)
def test_each_signal_ends_the_import_with_its_own_exit_code(
    harness: LoaderHarness, number: signal.Signals, code: FailureCode
) -> None:
    harness.server.rule = lambda request: Fault(before="stall") if request.number > 9 else None
    loader = harness.start()
    loader.wait_until_loading()
    loader.send(number)
    failed = loader.failure()
    assert failed.failure.code is code
    assert row_count(harness.database_url) == 0
    assert failed.staging == ("kept" if code is FailureCode.SUSPENDED else "none")


@provokes(FailureCode.CLEANUP_PENDING)
def test_a_roll_back_without_a_database_is_cleanup_pending(harness: LoaderHarness, postgres: str) -> None:
    harness.server.rule = lambda request: Fault(before="stall") if request.number > 9 else None
    loader = harness.start()
    loader.wait_until_loading()
    name = query(harness.database_url, "SELECT current_database()")[0][0]
    execute(postgres, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")  # open connections stay open
    loader.send(signal.SIGTERM)
    failed = loader.failure()
    execute(postgres, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert (failed.failure.code, failed.staging) == (FailureCode.CLEANUP_PENDING, "unknown")
    LoaderProcess(harness.folder, "gc", database_url=harness.database_url).wait()
    assert_nothing_is_left(harness.database_url)


@provokes(FailureCode.IMPORT_BUSY)
def test_a_second_loader_of_the_same_file_leaves_the_first_alone(harness: LoaderHarness) -> None:
    harness.server.rule = lambda request: Fault(before="stall") if request.number == 9 else None
    first = harness.start()
    first.wait_until_loading()
    harness.server.rule = lambda _: None
    second = harness.start().failure()
    assert (second.failure.code, second.staging) == (FailureCode.IMPORT_BUSY, "kept")
    harness.server.drop_connections()
    assert first.receipt().rows_published == row_count(harness.database_url)
    assert_nothing_is_left(harness.database_url)


@provokes(FailureCode.TABLE_LOCKED)
def test_a_lock_that_outlasts_the_budget_keeps_all_for_the_next_attempt(harness: LoaderHarness) -> None:
    harness.start(None, "--workers", "1").receipt()
    with psycopg.connect(harness.database_url) as holder:
        holder.execute("LOCK TABLE trips IN ACCESS SHARE MODE")  # a report, or pg_dump
        loader = LoaderProcess(
            harness.folder,
            "run",
            harness.server.url,
            "--mode",
            "replace",
            database_url=harness.database_url,
            environment=with_lock_limit(2),
            small=True,
        )
        failed = loader.failure()
        assert (failed.failure.code, failed.staging) == (FailureCode.TABLE_LOCKED, "kept")
    receipt = harness.start(None, "--mode", "replace").receipt()
    assert receipt.attempts == 2
    assert row_count(harness.database_url) == receipt.rows_published
    assert_nothing_is_left(harness.database_url)


@provokes(FailureCode.TABLE_CHANGED)
def test_a_table_that_is_altered_meanwhile_keeps_all_for_the_next_attempt(harness: LoaderHarness) -> None:
    harness.server.rule = lambda request: Fault(before="stall") if request.number == 9 else None
    loader = harness.start()
    loader.wait_until_loading()
    harness.execute("ALTER TABLE trips ADD note text")
    harness.server.drop_connections()
    failed = loader.failure()
    assert (failed.failure.code, failed.staging) == (FailureCode.TABLE_CHANGED, "kept")
    assert "note" in failed.failure.message
    harness.execute("ALTER TABLE trips DROP note")
    receipt = harness.start().receipt()
    assert receipt.rows_published == row_count(harness.database_url)


@provokes(FailureCode.TABLE_MISMATCH)
@pytest.mark.parametrize(
    "table", ["(a int)", "(hvfhs_license_num int) PARTITION BY LIST (hvfhs_license_num)"]
)
def test_a_trips_of_somebody_else_is_left_alone(harness: LoaderHarness, table: str) -> None:
    harness.execute(f"CREATE TABLE trips {table}")
    harness.fails(FailureCode.TABLE_MISMATCH)


@provokes(FailureCode.IMPORT_DETACHED)
def test_an_import_that_is_no_longer_in_trips_has_no_receipt_to_show(harness: LoaderHarness) -> None:
    options = ("--import-id", "0190b2c4-0000-7000-8000-000000000004")
    harness.start(None, *options).receipt()
    harness.execute("ALTER TABLE trips DETACH PARTITION loader.import_1")
    failed = harness.start(None, *options).failure()
    assert failed.failure.code is FailureCode.IMPORT_DETACHED
    assert "loader.import_1" in failed.failure.message
    assert query(harness.database_url, "SELECT count(*) > 0 FROM loader.import_1") == [(True,)]


@provokes(FailureCode.TABLE_REFERENCED)
def test_rows_that_others_refer_to_are_not_replaced_and_the_staging_is_kept(harness: LoaderHarness) -> None:
    rows = harness.start().receipt().rows_published
    harness.execute(*REFERENCE)
    failed = harness.start(None, "--mode", "replace").failure()
    assert (failed.failure.code, failed.staging) == (FailureCode.TABLE_REFERENCED, "kept")
    assert "notes" in failed.failure.message
    assert row_count(harness.database_url) == rows
    harness.execute("DROP TABLE notes")
    assert harness.start(None, "--mode", "replace").receipt().attempts == 2
    assert row_count(harness.database_url) == rows
    assert_nothing_is_left(harness.database_url)


@provokes(FailureCode.IMPORT_NOT_FOUND)
@pytest.mark.parametrize("command", ["rejects", "drop"])
@pytest.mark.parametrize("has_ledger", [False, True])
def test_an_unknown_import_is_import_not_found(
    harness: LoaderHarness, command: str, has_ledger: bool
) -> None:
    if has_ledger:
        harness.start().receipt()
    unknown = "0190b2c4-0000-7000-8000-000000000000"
    loader = LoaderProcess(harness.folder, command, unknown, database_url=harness.database_url)
    assert loader.wait() == 2
    assert FailureCode.IMPORT_NOT_FOUND in loader.stderr
    assert unknown in loader.stderr


_roles = itertools.count(1)


@provokes(FailureCode.DATABASE_RIGHTS)
@pytest.mark.parametrize("grants", [[], ["GRANT CREATE ON DATABASE {database} TO {role}"]])
def test_a_role_without_privileges_is_reported_at_the_probe(
    harness: LoaderHarness, grants: list[str]
) -> None:
    role = f"visitor_{os.getpid()}_{next(_roles)}"
    database = query(harness.database_url, "SELECT current_database()")[0][0]
    harness.execute(
        f"CREATE ROLE {role} LOGIN", *(each.format(database=database, role=role) for each in grants)
    )
    url = harness.database_url.replace("//postgres@", f"//{role}@")
    assert url != harness.database_url
    harness.fails(FailureCode.DATABASE_RIGHTS, database_url=url)
    harness.start().receipt()  # now trips is there, and somebody else's
    harness.execute(f"GRANT USAGE ON SCHEMA loader TO {role}")
    harness.fails(FailureCode.DATABASE_RIGHTS, database_url=url)
    harness.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@provokes(FailureCode.DATABASE_UNSUPPORTED)
def test_a_read_only_database_is_refused(harness: LoaderHarness) -> None:
    name = query(harness.database_url, "SELECT current_database()")[0][0]
    harness.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    harness.fails(FailureCode.DATABASE_UNSUPPORTED)


@provokes(FailureCode.EMBEDDED_DATABASE)
def test_an_embedded_server_that_can_not_start_is_reported_with_a_reason(harness: LoaderHarness) -> None:
    (harness.folder / "not a folder").write_text("x")
    loader = LoaderProcess(
        harness.folder, "run", harness.server.url, "--data-dir", str(harness.folder / "not a folder")
    )
    assert loader.failure().failure.code is FailureCode.EMBEDDED_DATABASE


@provokes(FailureCode.PROOF_FAILED)
def test_rows_that_vanish_in_the_server_are_a_defect_and_not_a_receipt(harness: LoaderHarness) -> None:
    # after three parts' bytes, so that one of two workers has filled one
    harness.server.rule = lambda request: Fault(before="stall") if request.number == 24 else None
    loader = harness.start()
    loader.wait_until_loading()
    assert wait_for("a part", lambda: query(harness.database_url, "SELECT part FROM loader.part"))
    harness.execute("DELETE FROM loader.block WHERE byte_start = (SELECT min(byte_start) FROM loader.block)")
    harness.server.drop_connections()
    failed: Failed = loader.failure()
    assert (failed.failure.code, failed.staging) == (FailureCode.PROOF_FAILED, "none")
    assert row_count(harness.database_url) == 0
    assert_nothing_is_left(harness.database_url)


@provokes(FailureCode.INTERNAL_ERROR)
def test_a_statement_that_the_server_refuses_unexpectedly_is_quoted(
    harness: LoaderHarness,
) -> None:
    harness.start().receipt()
    harness.execute("ALTER TABLE loader.block RENAME COLUMN line_count TO lines")
    failed = harness.start(None, "--force").failure()
    assert failed.failure.code is FailureCode.INTERNAL_ERROR
    assert "line_count" in failed.failure.message


@provokes(FailureCode.DATABASE_CONFIGURATION)
def test_a_database_that_does_not_exist_is_reported_at_once(harness: LoaderHarness) -> None:
    scheme, _, rest = harness.database_url.partition("://")
    path, _, parameters = rest.partition("?")
    wrong = f"{scheme}://{path.rpartition('/')[0]}/no_such_database?{parameters}"
    failure = harness.fails(FailureCode.DATABASE_CONFIGURATION, database_url=wrong)
    assert not failure.retryable
    assert "no_such_database" in failure.message
