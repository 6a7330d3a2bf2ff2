"""A file is `already_imported` only while its rows are in trips, whatever SQL has done to them."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from loader.cli import commands
from loader.contract import Failed, FailureCode, Job, Published
from tests.support.loader_process import query
from tests.support.table_operator import Operator

# Imports of a second each.
pytestmark = pytest.mark.slow

GONE = {
    "trips is dropped": "DROP TABLE trips",
    "trips is truncated": "TRUNCATE trips",
    "all rows are deleted": "DELETE FROM trips",
    "the import is truncated": "TRUNCATE loader.import_1",
    "the import is dropped": "DROP TABLE loader.import_1",
    "the import is detached": "ALTER TABLE trips DETACH PARTITION loader.import_1",
    "trips is renamed": "ALTER TABLE trips RENAME TO trips_2023",
    "all parts are dropped": "DO $$ DECLARE part regclass; BEGIN FOR part IN SELECT table_oid FROM loader.part LOOP"
    " EXECUTE format('DROP TABLE %s', part); END LOOP; END $$",
}
PART = "loader.import_1_part_1"
DAMAGED = {
    "a part is truncated": f"TRUNCATE {PART}",
    "a part's rows are deleted": f"DELETE FROM {PART}",
    "a part is dropped": f"DROP TABLE {PART}",
    "a part is detached": f"ALTER TABLE loader.import_1 DETACH PARTITION {PART}",
}


@pytest.fixture
def operator(database_url: str, tmp_path: Path, sample: bytes) -> Operator:
    return Operator(database_url, tmp_path, sample)


def refused(operator: Operator, job: Job) -> Failed:
    end = operator.run(job)
    assert isinstance(end, Failed), end
    assert end.staging == "none"
    return end


@pytest.mark.parametrize("gone", GONE)
def test_a_file_whose_rows_are_gone_is_loaded_again(gone: str, operator: Operator) -> None:
    job = Job(source=operator.file())
    first = operator.load()
    assert first.parts > 1
    assert refused(operator, job).failure.code is FailureCode.ALREADY_IMPORTED
    operator.sql(GONE[gone])
    again = refused(operator, Job(source=job.source, import_id=first.import_id))
    assert again.failure.code is FailureCode.IMPORT_DETACHED
    second = operator.load()
    assert second.import_id != first.import_id
    assert operator.count("trips") == second.rows_published == first.rows_published
    assert first.import_id in "".join(second.notes)
    assert refused(operator, job).failure.code is FailureCode.ALREADY_IMPORTED


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_file_that_has_lost_a_part_is_refused_with_what_is_missing(
    damaged: str, operator: Operator
) -> None:
    first = operator.load()
    operator.sql(DAMAGED[damaged])
    failure = refused(operator, Job(source=operator.file())).failure
    assert failure.code is FailureCode.ALREADY_IMPORTED
    assert f"1 of its {first.parts} parts" in failure.message
    assert f"loader drop {first.import_id}" in failure.hint
    commands.drop(operator.database_url, UUID(first.import_id), published=True)
    assert operator.load().rows_published == operator.count("trips") == first.rows_published


def test_a_file_of_rejects_alone_is_already_imported(operator: Operator, tmp_path: Path) -> None:
    header = Path(operator.file()).read_text().split("\n")[0]
    path = tmp_path / "rejects.csv"
    path.write_text(f"{header}\nbad\nbad\n")
    job = Job(source=str(path), max_rejects="100%")
    assert isinstance(operator.run(job), Published)
    assert refused(operator, job).failure.code is FailureCode.ALREADY_IMPORTED
    assert query(operator.database_url, "SELECT count(*) FROM loader.import") == [(1,)]
