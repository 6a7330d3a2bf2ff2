"""A row set aside: where it stood, what was wrong, its original bytes."""

from __future__ import annotations

import enum

import msgspec


class Reason(enum.StrEnum):
    """Why a row can't be stored. Stored in the ledger and shown to people."""

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
    column: str | None  # name in Postgres; None where the whole row is at fault
    value: str  # the field, or the whole row where that is at fault, as text.value_text shows it
    reason: Reason
    original: bytes  # the record without its line end
