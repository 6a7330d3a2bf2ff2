"""Compiled: where records end. A newline ends one where the quotes before it are even in number, as Postgres splits CSV.

A doubled quote counts twice, so it changes nothing.
"""

from __future__ import annotations

from loader.codes import NEWLINE, QUOTE
from loader.jit import kernel
from loader.machine import Bytes


@kernel
def record_end(block: Bytes, position: int, end: int) -> int:
    """Return where the record that begins at `position` ends: behind its newline, or at `end`."""
    quotes = 0
    for index in range(position, end):
        if block[index] == QUOTE:
            quotes += 1
        elif block[index] == NEWLINE and quotes % 2 == 0:
            return index + 1
    return end


@kernel
def find_cut(data: Bytes) -> tuple[int, int]:
    """Return where the last whole record ends in `data`, 0 for nowhere, and how many line ends lie before it.

    The count runs over all bytes, eight or more at a time; the search for the last newline runs backwards over one record.
    """
    newlines = 0
    quotes = 0
    for byte in data:
        newlines += byte == NEWLINE
        quotes += byte == QUOTE
    for index in range(len(data) - 1, -1, -1):
        if data[index] == QUOTE:
            quotes -= 1
        elif data[index] == NEWLINE:
            if quotes % 2 == 0:
                return index + 1, newlines
            newlines -= 1
    return 0, 0
