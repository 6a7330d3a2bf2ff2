"""A rejected row: its place in the file, the reason, its original bytes."""

from __future__ import annotations

import enum

import msgspec


class Reason(enum.StrEnum):
    """Why a row can't be stored. The ledger stores it, and messages show it."""

    FIELD_COUNT = "wrong number of fields"
    QUOTE = "unterminated quoted field"
    CARRIAGE_RETURN = "unquoted carriage return within the row"
    NUL = "NUL byte"
    ENCODING = "invalid UTF-8"
    TIMESTAMP_SYNTAX = "not a timestamp"
    TIMESTAMP_RANGE = "timestamp out of range"
    INTEGER_SYNTAX = "not an integer"
    INTEGER_RANGE = "integer out of range"
    DOUBLE_SYNTAX = "not a number"
    DOUBLE_RANGE = "number out of range"


class Reject(msgspec.Struct, frozen=True):
    """One reject. `line` counts physical lines of the file from 1, the header's."""

    line: int
    byte_offset: int  # of the record's first byte in the (decompressed) file
    column: str | None  # name in Postgres; None if the row as a whole is bad
    value: str  # the field, or the whole row where that is at fault, as text.value_text shows it
    reason: Reason
    original: bytes  # the record without its line end
