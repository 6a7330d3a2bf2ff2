"""The staging of a failed import is kept, unless a signal, a changed file or bad data drop it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from loader.cancellation import Interrupt
from loader.contract import FAILURE_KINDS, Failed, FailureCode, Job, ProgressMessage
from loader.errors import LoaderError
from loader.limits import DEFAULT_LIMITS
from loader.pipeline.load import Load
from loader.pipeline.progress import Meter
from loader.pipeline.rollback import FailedRun
from loader.pipeline.state import RunContext
from tests.support.http_server import Fault, HttpServer
from tests.support.loader_process import (
    Loaders,
    assert_nothing_is_left,
    checksum,
    checksum_of,
    committed_rows,
    row_count,
)
from tests.support.mid_load import stall_late
from tests.support.target import execute

pytestmark = pytest.mark.slow


def stage(loaders: Loaders, server: HttpServer, *options: str) -> Failed:
    """Run an import whose signature expires after most of the file."""
    server.rule = lambda request: Fault(status=403) if stall_late(request) else None
    failed = loaders.start("run", server.url, "--workers", "1", *options).failure()
    server.rule = lambda _: None
    assert (failed.failure.code, failed.staging) == (FailureCode.SOURCE_FORBIDDEN, "kept")
    assert committed_rows(loaders.database_url) > 0
    return failed


def test_a_signature_that_expires_costs_no_committed_row(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    failed = stage(loaders, server)
    rows = committed_rows(loaders.database_url)
    for word in (f"{rows:,} rows", " MB", " %", f"--import-id {failed.import_id}", "loader gc"):
        assert word in failed.failure.hint
    resumed = loaders.start("run", server.url, "--import-id", str(failed.import_id))
    receipt = resumed.receipt()
    assert (receipt.attempts, receipt.rows_published) == (2, row_count(loaders.database_url))
    loading = [
        each.progress.rows_loaded
        for each in resumed.messages()
        if isinstance(each, ProgressMessage) and each.phase == "loading"
    ]
    assert min(loading) >= rows
    assert checksum(loaders.database_url) == checksum_of(loaders.database_url, sample)
    assert_nothing_is_left(loaders.database_url)


def test_every_failure_code_keeps_or_drops_the_staging_as_documented(
    loaders: Loaders, server: HttpServer
) -> None:
    import_id: str | None = None
    for code in FailureCode:
        if code is FailureCode.IMPORT_BUSY:
            continue  # another loader's import, which is never changed
        if import_id is None:
            import_id = stage(loaders, server).import_id
        ended = end(code, loaders.database_url, server.url, import_id)
        expected = FAILURE_KINDS[code].staging
        assert ended.staging == ("kept" if expected == "kept" else "none"), code
        assert (committed_rows(loaders.database_url) > 0) == (expected == "kept"), code
        if expected == "kept":
            assert f"{committed_rows(loaders.database_url):,} rows" in ended.failure.hint, code
        else:
            assert_nothing_is_left(loaders.database_url)
            import_id = None


def end(
    code: FailureCode, database_url: str, source: str, import_id: str | None, *, is_owned: bool = True
) -> Failed:
    """End an attempt at this import with this failure."""
    job = Job(source, import_id=import_id)
    context = RunContext(job, database_url, Interrupt(), Meter(), lambda _: None, DEFAULT_LIMITS, False)
    load = Load(context)
    load.state.is_owned = is_owned
    failure = LoaderError(code, "It failed.", "Mend it.").failure
    ended = FailedRun(failure, context, load.state).resolve()
    assert isinstance(ended, Failed)
    return ended


def test_before_the_file_is_identified_only_a_signal_drops_the_staging(
    loaders: Loaders, server: HttpServer
) -> None:
    import_id = stage(loaders, server).import_id
    signals = (FailureCode.INTERRUPTED, FailureCode.TERMINATED)
    for code in FailureCode:
        if code not in (*signals, FailureCode.IMPORT_BUSY):
            ended = end(code, loaders.database_url, server.url, import_id, is_owned=False)
            assert ended.staging == "kept", code
    assert end(signals[0], loaders.database_url, server.url, import_id, is_owned=False).staging == "none"
    assert_nothing_is_left(loaders.database_url)


def test_a_failed_probe_reports_what_is_kept_of_that_location(loaders: Loaders, server: HttpServer) -> None:
    import_id = stage(loaders, server).import_id
    server.rule = lambda _: Fault(status=404)
    failed = loaders.start("run", server.url).failure()
    assert (failed.failure.code, failed.staging) == (FailureCode.SOURCE_NOT_FOUND, "kept")
    assert failed.import_id == import_id
    assert str(import_id) in failed.failure.hint
    assert loaders.start("gc").wait() == 0
    assert loaders.start("run", server.url).failure().staging == "none"


def test_a_resume_in_another_mode_or_with_no_trips_file_drops_nothing(
    loaders: Loaders, server: HttpServer, sample: bytes, tmp_path: Path
) -> None:
    import_id = str(stage(loaders, server, "--mode", "replace").import_id)
    other_mode = loaders.start("run", server.url, "--import-id", import_id).failure()
    assert (other_mode.failure.code, other_mode.staging) == (FailureCode.USAGE, "kept")
    assert "--mode replace" in other_mode.failure.hint
    page = tmp_path / "log_in.html"
    page.write_text("<html>Log in</html>\n")
    header = tmp_path / "header.csv"
    header.write_text("a,b\n1,2\n")
    for path, code in ((page, FailureCode.NOT_CSV), (header, FailureCode.HEADER_MISMATCH)):
        failed = loaders.start("run", str(path), "--import-id", import_id).failure()
        assert (failed.failure.code, failed.staging) == (code, "kept")
    receipt = loaders.start("run", server.url, "--import-id", import_id, "--mode", "replace").receipt()
    assert receipt.rows_published == row_count(loaders.database_url)
    assert checksum(loaders.database_url) == checksum_of(loaders.database_url, sample)


@pytest.fixture
def stranger(database_url: str) -> Generator[str]:
    """A role that may log in, and has no rights on the ledger's tables."""
    execute(database_url, "CREATE ROLE stranger LOGIN")
    yield "stranger"
    execute(database_url, "DROP OWNED BY stranger CASCADE")
    execute(database_url, "DROP ROLE stranger")


def test_a_resume_by_a_role_that_lacks_rights_drops_nothing(
    stranger: str, loaders: Loaders, server: HttpServer, tmp_path: Path
) -> None:
    failed = stage(loaders, server)
    execute(loaders.database_url, f"GRANT USAGE ON SCHEMA loader TO {stranger}")
    theirs = Loaders(tmp_path, loaders.database_url.replace("//postgres@", f"//{stranger}@"))
    refused = theirs.start("run", server.url, "--import-id", str(failed.import_id)).failure()
    assert refused.failure.code is FailureCode.DATABASE_RIGHTS
    assert refused.staging == "unknown"  # this role may not read the ledger
    assert committed_rows(loaders.database_url) > 0
    assert loaders.start("run", server.url).receipt().attempts == 2
    assert_nothing_is_left(loaders.database_url)
