"""Compiled: rows of CSV to tuples of Postgres' binary COPY format, in one pass over the bytes, without the GIL.

Input: whole lines of unquoted or quoted fields that are separated by commas. A line ends in LF or CRLF.
Output: for each row a tuple as in https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT, all
numbers in network byte order:

    int16 field count; then for each field int32 length (-1: null) and that many bytes:
    text         its UTF-8 bytes
    timestamp    int64, microseconds since 2000-01-01 00:00:00
    integer      int32
    bigint       int64
    double       binary64

The fast path of a field handles the form that files nearly always have: up to eight bytes as one word. Other forms take a
general function of the field's kind, which goes byte by byte. Rows with fields that neither handles, with a wrong number of
fields or with a quote or newline within a field are declined: `rows.py` encodes or rejects them. So nothing here rejects a
row, and each row is encoded as `rows.py` encodes it.
"""

from __future__ import annotations

from loader.kernel.constants import COMMA, DECLINED, ENDED, FULL, NEWLINE, QUOTE, RETURN
from loader.kernel.intrinsics import Bytes, UInt64, byte_at, memory_of, put_int32
from loader.kernel.jit import inlined, kernel
from loader.kernel.numbers import encode_double, encode_integer
from loader.kernel.text import encode_text
from loader.kernel.timestamps import EMPTY_DATE_CACHE, DateCache, encode_timestamp
from loader.schema import Kind

_NULL = ~UInt64(0)
# Room for a row without its long texts: the count, and for each field a length and a word.
_COUNT_BYTES, _FIELD_BYTES = 2, 12


@kernel
def encode_rows(
    block: Bytes, position: int, end: int, output: Bytes, written: int, kinds: Bytes
) -> tuple[int, int, int, int]:
    """Encode rows from block[position:end] to output[written:], by the kinds of their columns.

    Return the positions reached in block and output, the number of rows, and the status: ENDED at `end`; FULL before a
    row for which the output has no room; DECLINED before a row that `rows.py` has to encode.

    block[end - 1] must be a newline. No field extends over a newline, so no read goes further than 32 bytes beyond `end`.
    """
    source, target = memory_of(block), memory_of(output)
    last = len(kinds) - 1
    limit = len(output) - _COUNT_BYTES - _FIELD_BYTES * len(kinds)
    date_cache = EMPTY_DATE_CACHE
    rows = 0
    while position < end:
        if written > limit:
            return position, written, rows, FULL
        row, row_written = position, written
        # An int16; the first length overwrites the low half.
        put_int32(target, written, UInt64(len(kinds)) << 16)
        written += _COUNT_BYTES
        for column in range(len(kinds)):
            separator = COMMA if column < last else NEWLINE
            byte = byte_at(source, position)
            if byte in (separator, RETURN):
                put_int32(target, written, _NULL)
                written += 4
            elif byte == QUOTE:
                position, written, date_cache = _encode_field(
                    source, position + 1, True, kinds[column], target, written, limit, date_cache
                )
                if position >= 0:
                    position = position + 1 if byte_at(source, position) == QUOTE else DECLINED
            else:
                # A call of its own: if 0 or 1 were added to the position, each field would wait for the load of its
                # first byte, which costs 48 ns a row.
                position, written, date_cache = _encode_field(
                    source, position, False, kinds[column], target, written, limit, date_cache
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
    source: Bytes,
    position: int,
    quoted: bool,
    kind: int,
    target: Bytes,
    written: int,
    limit: int,
    date_cache: DateCache,
) -> tuple[int, int, DateCache]:
    if kind == Kind.TEXT:
        position, written = encode_text(source, position, quoted, target, written, limit)
        return position, written, date_cache
    if kind == Kind.DOUBLE:
        return encode_double(source, position, target, written), written + 12, date_cache
    if kind == Kind.TIMESTAMP:
        position, date_cache = encode_timestamp(source, position, target, written, date_cache)
        return position, written + 12, date_cache
    if kind == Kind.INTEGER:
        return encode_integer(source, position, target, written, 4), written + 8, date_cache
    if kind == Kind.BIGINT:
        return encode_integer(source, position, target, written, 8), written + 12, date_cache
    return DECLINED, written, date_cache  # a kind without a branch here: `rows.py` encodes it
