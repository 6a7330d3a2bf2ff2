"""Compiled: rows of CSV to tuples of Postgres' binary COPY format, in one pass over the bytes and without the GIL.

Input: whole lines of unquoted or quoted fields, separated by commas, ended by LF or CRLF.
Output: for each row a tuple as in https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT, all
numbers in network byte order:

    int16 field count; then for each field int32 length, -1 for null, and as many bytes:
    text         its UTF-8 bytes
    timestamp    int64, microseconds since 2000-01-01 00:00:00
    integer      int32
    bigint       int64
    double       binary64

A field is first tried as files nearly always have it: up to eight bytes as one word. Where that fails, a general
function for its kind goes byte by byte. What that does not know either, and every row that is odd in itself (a wrong
number of fields, a quote or newline within a field), is declined: `rows.py` decides. So nothing here rejects a row,
and what is encoded here is what `rows.py` would have made of it.
"""

from __future__ import annotations

from loader.kernel.constants import COMMA, DECLINED, ENDED, FULL, NEWLINE, QUOTE, RETURN
from loader.kernel.intrinsics import Bytes, UInt64, byte_at, memory_of, put_int32
from loader.kernel.jit import inlined, kernel
from loader.kernel.numbers import encode_double, encode_integer
from loader.kernel.text import encode_text
from loader.kernel.timestamps import NO_DATE, Date, encode_timestamp
from loader.schema import Kind

_NULL = ~UInt64(0)
# What a row takes besides its long texts: the count, and for each field a length and a word.
_COUNT_BYTES, _FIELD_BYTES = 2, 12


@kernel
def encode_rows(
    block: Bytes, position: int, end: int, output: Bytes, written: int, kinds: Bytes
) -> tuple[int, int, int, int]:
    """Encode rows from block[position:end] to output[written:], by the kinds of their columns.

    Returns the positions reached in block and output, the number of rows, and why it came back: ENDED at `end`;
    FULL before a row that the output has no room for; DECLINED before a row that is to be encoded by `rows.py`.

    block[end - 1] must be a newline: no field runs over one, so that no read goes further than 32 bytes beyond.
    """
    source, target = memory_of(block), memory_of(output)
    last = len(kinds) - 1
    limit = len(output) - _COUNT_BYTES - _FIELD_BYTES * len(kinds)
    date = NO_DATE
    rows = 0
    while position < end:
        if written > limit:
            return position, written, rows, FULL
        row, row_written = position, written
        put_int32(
            target, written, UInt64(len(kinds)) << 16
        )  # its low half is overwritten by the first length
        written += _COUNT_BYTES
        for column in range(len(kinds)):
            separator = COMMA if column < last else NEWLINE
            byte = byte_at(source, position)
            if byte in (separator, RETURN):
                put_int32(target, written, _NULL)
                written += 4
            elif byte == QUOTE:
                position, written, date = _encode_field(
                    source, position + 1, True, kinds[column], target, written, limit, date
                )
                if position >= 0:
                    position = position + 1 if byte_at(source, position) == QUOTE else DECLINED
            else:
                # Not one call for both: adding 0 or 1 to the position would have each field wait for its first byte
                # before it can look for its end, 48 ns a row.
                position, written, date = _encode_field(
                    source, position, False, kinds[column], target, written, limit, date
                )
            if position < 0:
                return row, row_written, rows, position
            byte = byte_at(source, position)
            if byte == separator:
                position += 1
            elif byte == RETURN and column == last and byte_at(source, position + 1) == NEWLINE:
                position += 2
            else:
                return row, row_written, rows, DECLINED
        rows += 1
    return position, written, rows, ENDED


@inlined
def _encode_field(
    source: Bytes, position: int, quoted: bool, kind: int, target: Bytes, written: int, limit: int, date: Date
) -> tuple[int, int, Date]:
    if kind == Kind.TEXT:
        position, written = encode_text(source, position, quoted, target, written, limit)
        return position, written, date
    if kind == Kind.DOUBLE:
        return encode_double(source, position, target, written), written + 12, date
    if kind == Kind.TIMESTAMP:
        position, date = encode_timestamp(source, position, target, written, date)
        return position, written + 12, date
    if kind == Kind.INTEGER:
        return encode_integer(source, position, target, written, 4), written + 8, date
    return encode_integer(source, position, target, written, 8), written + 12, date
