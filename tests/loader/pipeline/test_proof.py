"""An import is published only when all counts agree: of the cut, the encoder, the server, the ledger and the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from loader.buffers import Buffer, Segment
from loader.contract import FailureCode, Job
from loader.encoding import blocks
from loader.encoding.blocks import Block
from loader.encoding.encoder import Chunk, Encoder
from loader.pipeline import coverage, workers
from loader.pipeline.proof import find_difference
from loader.postgres.ledger import Totals
from tests.support.http_server import HttpServer
from tests.support.loader_process import Loaders, query, row_count
from tests.support.mid_load import holding, resume_serving, staged_part, start_until_stalled, wait_for_lock
from tests.support.whole_import import WholeImport

WHOLE = Totals(
    blocks=3, parts=2, bytes=900, records=20, rows_sent=17, rows_rejected=3, rows_copied=17, rejects_stored=3
)


def test_counts_that_agree_are_a_proof() -> None:
    assert find_difference(WHOLE, 17) is None


@pytest.mark.parametrize("name", ["records", "rows_sent", "rows_rejected", "rows_copied", "rejects_stored"])
@pytest.mark.parametrize("more", [1, -1])
def test_each_count_that_differs_by_one_is_reported_with_both_numbers(name: str, more: int) -> None:
    count = getattr(WHOLE, name)
    found = find_difference(msgspec.structs.replace(WHOLE, **{name: count + more}), 17)
    assert found is not None
    assert "20" in found or "17" in found or "3" in found


def test_rows_that_are_not_in_the_attached_parts_are_reported() -> None:
    assert find_difference(WHOLE, 16) == "17 rows were copied and 16 are in the attached parts"


class LossyEncoder(Encoder):
    """Skips the first record of each block, as a kernel with a defect might, and counts only what it encodes."""

    def encode(self, block: Block) -> Iterator[Chunk]:
        first = bytes(block.buffer.view[block.start : block.end]).index(b"\n") + 1
        rest = msgspec.structs.replace(
            block, start=block.start + first, byte_offset=block.byte_offset + first
        )
        return super().encode(rest)


def cut_all_but_the_last(
    segments: Iterable[Segment], first_line: int, release: Callable[[Buffer], None]
) -> Iterator[Block]:
    """Lose the last block of the file, as a source might that takes a lost connection for the file's end."""
    found = list(blocks.cut(segments, first_line, release))
    yield from found[:-1]


@pytest.mark.slow
def test_a_row_that_the_encoder_loses_is_noticed(
    monkeypatch: pytest.MonkeyPatch, database_url: str, sample: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    monkeypatch.setattr(workers, "Encoder", LossyEncoder)
    failure = WholeImport(database_url, sample).fails(Job(str(path)), FailureCode.PROOF_FAILED)
    assert "12,000 records were cut" in failure.message


@pytest.mark.slow
def test_an_end_of_a_plain_file_that_was_not_read_is_noticed(
    monkeypatch: pytest.MonkeyPatch, database_url: str, sample: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(
        sample[:500_000].rpartition(b"\n")[0] + b"\n"
    )  # of fewer segments than there are buffers
    monkeypatch.setattr(coverage, "cut", cut_all_but_the_last)
    failure = WholeImport(database_url, sample).fails(Job(str(path)), FailureCode.PROOF_FAILED)
    assert f"and it has {path.stat().st_size:,}" in failure.message


# What somebody may do to the ledger and to the table of a committed part while others load.
CHANGES = {
    "a block of other bytes": "UPDATE loader.block SET byte_end = byte_end - 1 WHERE ctid = '(0,1)'",
    "a block of other records": "UPDATE loader.block SET record_count = record_count + 1 WHERE ctid = '(0,1)'",
    "a block of other rows": "UPDATE loader.block SET row_count = row_count - 1 WHERE ctid = '(0,1)'",
    "a block of other rejects": "UPDATE loader.block SET reject_count = reject_count + 1 WHERE ctid = '(0,1)'",
    "a part of other rows": "UPDATE loader.part SET row_count = row_count + 1",
    "a reject too few": "DELETE FROM loader.reject WHERE byte_offset = (SELECT min(byte_offset) FROM loader.reject)",
    "a part truncated": "TRUNCATE {part}",
    "a part emptied": "DELETE FROM {part}",
}


@pytest.mark.slow
def test_a_part_that_is_emptied_while_the_publish_waits_for_a_lock_is_noticed(
    loaders: Loaders, server: HttpServer
) -> None:
    loaders.start("run", server.url).receipt()
    rows = row_count(loaders.database_url)
    with holding(loaders, "LOCK TABLE trips IN SHARE UPDATE EXCLUSIVE MODE"):
        loader = loaders.start("run", server.url, "--force")
        loader.wait_for_phase("publishing")
        wait_for_lock(loaders, "control")
        (part,) = query(loaders.database_url, "SELECT max(part) FROM loader.part")[0]
        with psycopg.connect(loaders.database_url) as connection:
            connection.execute(f"TRUNCATE loader.import_2_part_{part}".encode())
    assert loader.failure().failure.code is FailureCode.TABLE_CHANGED
    assert row_count(loaders.database_url) == rows


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_is_changed_by_hand_in_mid_load_is_not_published(
    change: str, loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    lines = sample.splitlines(keepends=True)
    for line in range(1, len(lines), 100):  # some in each part
        lines[line] = b"a bad row\n"
    server.content = b"".join(lines)
    loader = start_until_stalled(loaders, server, "--max-rejects", "50%")
    with psycopg.connect(loaders.database_url) as connection:
        assert connection.execute(change.format(part=staged_part(loaders)).encode()).rowcount != 0
    resume_serving(server)
    failed = loader.failure()
    assert failed.failure.code in {FailureCode.PROOF_FAILED, FailureCode.TABLE_CHANGED}
    assert row_count(loaders.database_url) == 0
    assert query(loaders.database_url, "SELECT FROM loader.import WHERE state = 'published'") == []
