"""The first rows of a file, as its probe has them: one that can't be stored fails an import before a table exists."""

from __future__ import annotations

from collections.abc import Iterator

from loader.encoding.header import Header, first_records
from loader.encoding.rows import Fault, encode_row, reject_of
from loader.rejects import Reject


def probed_records(head: bytes, header: Header, *, is_whole: bool) -> list[tuple[int, bytes]]:
    """Return the whole records of the file's head, each with its byte offset; `is_whole`: the head is all of the file."""
    return list(first_records(head, header, is_whole=is_whole))


def first_rejects(head: bytes, header: Header, max_rows: int, *, is_whole: bool) -> Iterator[Reject]:
    """Yield the rows among the first `max_rows` that can't be stored."""
    line = 2
    for offset, record in probed_records(head, header, is_whole=is_whole)[:max_rows]:
        row = encode_row(record, header.column_count)
        if isinstance(row, Fault):
            yield reject_of(row, record, line, offset)
        line += 1 + record.count(b"\n")
