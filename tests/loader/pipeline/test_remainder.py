"""What an attempt reads: exactly the blocks that are not committed, each with its place in the file."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.buffers import BufferPool
from loader.encoding.blocks import Block
from loader.pipeline.coverage import coverage_error
from loader.pipeline.remainder import PendingBlocks
from loader.postgres.ledger import Span
from tests.support.source_reading import opened

HEADER = b"a,b,c\n"
SEGMENT_BYTES = 24  # of a few records, shorter than some

records = st.lists(
    st.sampled_from([b"1,2,3\n", b"4,5,6\r\n", b'"two\nlines",,\n', b'7,"three\r\n\n""lines""",8\n', b"\n"]),
    min_size=1,
    max_size=30,
).map(b"".join)


def read_missing(
    path: Path, committed: list[Span], data_end: int | None
) -> tuple[list[tuple[Block, bytes]], int]:
    """Return the missing blocks with their bytes, and where the data end."""
    with opened(str(path)) as source:
        source.probe()
        pool = BufferPool(3, SEGMENT_BYTES)
        remainder = PendingBlocks(source, pool, committed, len(HEADER), data_end)
        found: list[tuple[Block, bytes]] = []
        for block in remainder.blocks():
            found.append((block, bytes(block.buffer.view[block.start : block.end])))
            pool.release(block.buffer)
        return found, remainder.data_end


def span(block: Block, content: bytes) -> Span:
    return Span(block.byte_offset, block.byte_offset + len(content), block.line_count)


@given(records, st.booleans(), st.booleans(), st.data())
def test_missing_blocks_have_their_place_in_the_file_whatever_is_committed(
    tmp_path_factory: pytest.TempPathFactory,
    records: bytes,
    is_ended: bool,
    is_compressed: bool,
    data: st.DataObject,
) -> None:
    file = HEADER + records + (b"" if is_ended else b'9,"x\ny",0')
    path = tmp_path_factory.getbasetemp() / "trips.csv"
    path.write_bytes(gzip.compress(file) if is_compressed else file)
    data_end = None if is_compressed else len(file)
    first, end = read_missing(path, [], data_end)
    assert end == len(file)
    assert b"".join(content for _, content in first) == file[len(HEADER) :]

    kept = data.draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first)))
    committed = [span(*each) for each in itertools.compress(first, kept)]
    rest, end = read_missing(path, committed, data_end)
    assert end == len(file)
    for block, content in first + rest:
        assert content == file[block.byte_offset : block.byte_offset + len(content)]
        assert block.first_line == 1 + file[: block.byte_offset].count(b"\n")
    spans = sorted(committed + [span(*each) for each in rest])
    assert coverage_error(spans, len(HEADER), len(file)) is None
