"""What a row means: the bytes of a record to a binary COPY tuple, or to its fault. The kernel is tested against this module.

A row means what it means to PostgreSQL 18's `COPY ... (FORMAT csv)` with default options
(https://www.postgresql.org/docs/18/sql-copy.html), except for the spellings that `fields.py` lists. Unquoted
empty is null, quoted empty is an empty text, a quote may open and close within a field, `\\.` is data.
"""

from __future__ import annotations

import re

import msgspec

from loader.encoding.fields import encode_field
from loader.rejects import Reason, Reject
from loader.schema import COLUMNS
from loader.text import value_text

# Up to a comma outside quotes, or to the end: in one call, because a record may have millions of quotes.
_FIELD = re.compile(rb'(?:[^",]++|"[^"]*+(?:"|\Z))*+')
# From a quote to the one that closes it, over doubled quotes.
_QUOTED = re.compile(rb'"((?:[^"]++|"")*+)"')
_NULL = (-1).to_bytes(4, "big", signed=True)


class Fault(msgspec.Struct, frozen=True):
    """Why a row can't be stored, and for which field."""

    column_index: int | None  # into schema.COLUMNS; None: the whole row
    value: bytes | None  # the field without its quotes
    reason: Reason
    # with FIELD_COUNT: the fields found, and those of the file's layout
    counts: tuple[int, int] | None = None


def encode_row(record: bytes, column_count: int) -> bytes | Fault:
    r"""Return the tuple of one record: int16 field count, then for each field int32 length (-1: null) and data.

    `record` has no line end, neither \n nor the \r of a CRLF; a \n in it is within quotes. `column_count` is one of
    schema.LAYOUT_COLUMN_COUNTS. Of several faults the first in this order is returned: an unterminated quote; an
    unquoted carriage return; the number of fields; the first field with a NUL byte or invalid UTF-8; the first field
    that its column's kind can't hold.
    """
    fields = split_record(record, column_count)
    if isinstance(fields, Reason):
        return Fault(None, None, fields)
    if len(fields) != column_count:
        return Fault(None, None, Reason.FIELD_COUNT, (_field_count(record), column_count))
    if fault := _text_fault(record, fields):
        return fault
    parts = [column_count.to_bytes(2, "big")]
    for index, field in enumerate(fields):
        if field is None:
            parts.append(_NULL)
            continue
        data = encode_field(COLUMNS[index].kind, field)
        if isinstance(data, Reason):
            return Fault(index, field, data)
        parts += len(data).to_bytes(4, "big"), data
    return b"".join(parts)


def reject_of(fault: Fault, record: bytes, line: int, byte_offset: int) -> Reject:
    """Return the reject of a row with a fault; `line` and `byte_offset` are those of the record's first byte.

    If the whole row is at fault, it is the value.
    """
    column = None if fault.column_index is None else COLUMNS[fault.column_index].name
    value = value_text(record if fault.value is None else fault.value)
    counts = "" if fault.counts is None else ": {:,} instead of {:,}".format(*fault.counts)
    return Reject(line, byte_offset, column, value, f"{fault.reason}{counts}", record, fault.reason)


def without_line_end(record: bytes) -> bytes:
    r"""Return a record without the \n or \r\n at its end."""
    return record[:-2] if record.endswith(b"\r\n") else record.removesuffix(b"\n")


def split_record(record: bytes, column_count: int) -> list[bytes | None] | Reason:
    """Return the fields without quotes, None for null; of a record with more than `column_count`, at least one more."""
    if b'"' in record:
        return _split_quoted(record, column_count)
    if b"\r" in record:
        return Reason.CARRIAGE_RETURN
    return [field or None for field in record.split(b",", column_count)]


def _field_count(record: bytes) -> int:
    """Return the number of fields of a record whose quotes are all closed."""
    return _QUOTED.sub(b"", record).count(b",") + 1


def field_end(record: bytes, start: int) -> int:
    """Return where the field that starts at `start` ends: at a comma outside quotes, or with the record."""
    field = _FIELD.match(record, start)
    return start if field is None else field.end()


def _split_quoted(record: bytes, column_count: int) -> list[bytes | None] | Reason:
    if record.count(b'"') % 2 == 1:
        return Reason.QUOTE
    if b"\r" in record and b"\r" in _QUOTED.sub(b"", record):
        return Reason.CARRIAGE_RETURN
    fields: list[bytes | None] = []
    start = 0
    while start <= len(record) and len(fields) <= column_count:
        end = field_end(record, start)
        field = record[start:end]
        fields.append(_QUOTED.sub(_unquoted, field) if b'"' in field else field or None)
        start = end + 1
    return fields


def _unquoted(stretch: re.Match[bytes]) -> bytes:
    return stretch[1].replace(b'""', b'"')


def _text_fault(record: bytes, fields: list[bytes | None]) -> Fault | None:
    if b"\0" not in record and _is_utf8(record):
        return None
    for index, field in enumerate(fields):
        if field and b"\0" in field:
            return Fault(index, field, Reason.NUL)
        if field and not _is_utf8(field):
            return Fault(index, field, Reason.ENCODING)
    return Fault(None, None, Reason.ENCODING)  # a quote splits a character, whose bytes are valid without it


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
