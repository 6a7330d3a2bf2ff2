"""PostgreSQL 15 to 19: import, replace, removal, collection and rollback on each installed version."""

from __future__ import annotations

from pathlib import Path

import pytest

from loader.contract import FailureCode
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    Loaders,
    assert_nothing_is_left,
    checksum,
    checksum_of,
    query,
    row_count,
    wait_until_disconnected,
)
from tests.support.mid_load import stall_late
from tests.support.postgres_server import installed, own_server

pytestmark = pytest.mark.slow
VERSIONS = (15, 16, 17, 18, 19)
STATISTICS = "SELECT count(*) FROM pg_stats WHERE schemaname = 'public' AND tablename = 'trips'"


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_an_import_a_replacement_a_removal_a_collection_and_a_roll_back_in(
    version: int, server: HttpServer, sample: bytes, tmp_path: Path
) -> None:
    if version not in installed():
        pytest.skip(f"PostgreSQL {version} is not installed")
    with own_server(version) as own:
        loaders = Loaders(tmp_path, own.url)
        whole = checksum_of(own.url, sample)
        receipt = loaders.start("run", server.url).receipt()
        # Since 18 the loader refreshes the statistics of trips as a whole.
        assert [note for note in receipt.notes if "ANALYZE public.trips" in note] == receipt.notes
        assert bool(receipt.notes) == (version < 18)
        assert (query(own.url, STATISTICS) == [(0,)]) == (version < 18)
        replacement = loaders.start("run", server.url, "--mode", "replace").receipt()
        assert checksum(own.url) == whole
        server.rule = stall_late
        loader = loaders.start("run", server.url, "--force")
        loader.wait_until_loading()
        loader.process.terminate()
        last = loader.failure()
        assert (last.failure.code, last.staging) == (FailureCode.TERMINATED, "none")
        assert_nothing_is_left(own.url)
        killed = loaders.start("run", server.url, "--force")
        killed.wait_until_loading()
        killed.process.kill()
        killed.wait()
        wait_until_disconnected(own.url)
        collection = loaders.start("gc")
        assert collection.wait() == 0
        assert "removed import" in collection.stdout
        assert checksum(own.url) == whole
        assert loaders.start("drop", "--published", replacement.import_id).wait() == 0
        assert row_count(own.url) == 0
        assert_nothing_is_left(own.url)
