"""A rejected row: its place in the file, the reason, its original bytes."""

from __future__ import annotations

import enum

import msgspec


class Reason(enum.StrEnum):
    """Why a row can't be stored. The ledger stores the text, and messages show it."""

    FIELD_COUNT = "wrong number of fields"  # followed by the counts
    QUOTE = "unterminated quoted field"
    CARRIAGE_RETURN = "unquoted carriage return within the row"
    NUL = "NUL byte"
    ENCODING = "invalid UTF-8"
    QUOTED_EMPTY = "a quoted empty field is text, not null"
    TIMESTAMP_SYNTAX = "not a timestamp (YYYY-MM-DD HH:MM:SS)"
    TIMESTAMP_VALUE = "no such date or time"
    TIMESTAMP_RANGE = "timestamp out of range"
    INTEGER_SYNTAX = "not an integer"
    INTEGER_RANGE = "out of range for integer"
    BIGINT_RANGE = "out of range for bigint"
    DOUBLE_SYNTAX = "not a number"
    DOUBLE_RANGE = "out of range for double precision"


class Reject(msgspec.Struct, frozen=True):
    """One reject. `line` counts physical lines of the file from 1, the header's."""

    line: int
    byte_offset: int  # of the record's first byte in the (decompressed) file
    column: str | None  # name in Postgres; None if the row as a whole is bad
    value: str  # the field, or the whole row where that is at fault, as text.value_text shows it
    reason: str  # for people: the kind, for FIELD_COUNT with the counts
    original: bytes  # the record without its line end
    kind: Reason | None = None  # None: read from the ledger, which has the text only
