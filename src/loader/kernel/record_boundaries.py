"""Compiled: where records end. As Postgres splits CSV, a newline ends a record if the number of quotes before it is even.

A doubled quote counts twice and changes nothing.
"""

from __future__ import annotations

from loader.kernel.constants import NEWLINE, QUOTE
from loader.kernel.intrinsics import Bytes, UInt64, memory_of, word_at
from loader.kernel.jit import inlined, kernel
from loader.kernel.swar import byte_sum, other_bytes, word_of

_NEWLINES, _QUOTES = word_of(b"\n" * 8), word_of(b'"' * 8)
_ALL_OTHER = word_of(b"\x01" * 8)  # what `other_bytes` returns for a word without the byte
# Each byte of a sum holds up to 255, so that many words are added up at once.
_RUN_WORDS = 255
_RUN_BYTES = _RUN_WORDS * 8


@kernel
def record_end(block: Bytes, position: int, end: int) -> int:
    """Return where the record that starts at `position` ends: behind its newline, or at `end`."""
    quotes = 0
    for index in range(position, end):
        if block[index] == QUOTE:
            quotes += 1
        elif block[index] == NEWLINE and quotes % 2 == 0:
            return index + 1
    return end


@inlined
def _count(data: Bytes) -> tuple[int, int]:
    """Return the numbers of newlines and of quotes."""
    memory = memory_of(data)
    runs_end = len(data) // _RUN_BYTES * _RUN_BYTES
    newlines = quotes = runs_end
    for run in range(0, runs_end, _RUN_BYTES):
        no_newlines = no_quotes = UInt64(0)
        for position in range(run, run + _RUN_BYTES, 8):
            word = word_at(memory, position)
            no_newlines += other_bytes(word, _NEWLINES)
            no_quotes += other_bytes(word, _QUOTES)
        newlines -= byte_sum(no_newlines)
        quotes -= byte_sum(no_quotes)
    for byte in data[runs_end:]:
        newlines += byte == NEWLINE
        quotes += byte == QUOTE
    return newlines, quotes


@inlined
def _quoted_newlines(data: Bytes, end: int) -> int:
    """Return how many newlines in data[:end] are within quotes. Words with a newline are read byte by byte."""
    memory = memory_of(data)
    words_end = end // 8 * 8
    found = 0
    quotes = 0
    for position in range(0, words_end, 8):
        word = word_at(memory, position)
        if other_bytes(word, _NEWLINES) == _ALL_OTHER:
            quotes += byte_sum(other_bytes(word, _QUOTES))  # eight less the quotes: of the same parity
        else:
            for byte in data[position : position + 8]:
                quotes += byte == QUOTE
                found += byte == NEWLINE and quotes % 2 == 1
    for byte in data[words_end:end]:
        quotes += byte == QUOTE
        found += byte == NEWLINE and quotes % 2 == 1
    return found


@kernel
def find_cut(data: Bytes) -> tuple[int, int, int]:
    """Return where the last whole record in `data` ends (0: nowhere), and the numbers of newlines and records before that.

    One pass counts newlines and quotes, many bytes at a time. Then the last newline is searched backwards over one record.
    If there are quotes, a second pass counts the newlines within them.
    """
    newlines, quotes = _count(data)
    for index in range(len(data) - 1, -1, -1):
        if data[index] == QUOTE:
            quotes -= 1
        elif data[index] == NEWLINE:
            if quotes % 2 == 0:
                quoted = _quoted_newlines(data, index + 1) if quotes > 0 else 0
                return index + 1, newlines, newlines - quoted
            newlines -= 1
    return 0, 0, 0
