"""Which bytes of the file are loaded: what is missing between blocks, and the proof that nothing is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from loader.postgres.ledger import Span


class Gap(msgspec.Struct, frozen=True):
    """Bytes that no block covers. `end` is None where it reaches to a file's end that is not known yet."""

    start: int
    end: int | None


def gaps(blocks: Sequence[Span], data_start: int, data_end: int | None) -> Iterator[Span | Gap]:
    """Yield blocks and gaps in file order, from `data_start` to `data_end`: the plan of an attempt.

    `blocks` are sorted and disjoint; with both ends known the result covers the range without a hole.
    """
    position = data_start
    for block in blocks:
        if block.start > position:
            yield Gap(position, block.start)
        yield block
        position = block.end
    if data_end is None or position < data_end:
        yield Gap(position, data_end)


def coverage_error(blocks: Iterable[Span], data_start: int, data_end: int) -> str | None:
    """Return None when sorted blocks cover [data_start, data_end) exactly once, else a sentence that says where not."""
    position = data_start
    for block in blocks:
        if block.start != position:
            fault = "twice" if block.start < position else "by no block"
            return f"bytes from {min(position, block.start):,} are covered {fault}"
        position = block.end
    if position != data_end:
        return f"blocks end at byte {position:,} and the data at {data_end:,}"
    return None
