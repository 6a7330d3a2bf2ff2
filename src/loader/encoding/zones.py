"""Zones of timestamps, which the columns don't store: the first one is named in a note."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from loader.encoding.fields import has_zone
from loader.encoding.rows import split_record
from loader.rejects import Reason
from loader.schema import COLUMNS, Kind
from loader.text import value_text

_TIMESTAMP_COLUMNS = [index for index, column in enumerate(COLUMNS) if column.kind is Kind.TIMESTAMP]


class DroppedZone(msgspec.Struct, frozen=True, order=True):
    """A field whose zone is not stored."""

    line: int
    column: str
    value: str

    def note(self) -> str:
        """Return the note for the receipt."""
        return (
            f"Time zones of timestamps are not stored, and their times are stored as written: line {self.line:,}, column"
            f" {self.column}, has {self.value!r}."
        )


def find_zone(record: bytes, column_count: int, line: int) -> DroppedZone | None:
    """Return the first timestamp with a zone of a row that can be stored. Such a row is none of the kernel's."""
    fields = split_record(record, column_count)
    if isinstance(fields, Reason):
        return None
    for index in _TIMESTAMP_COLUMNS:
        field = fields[index]
        if field is not None and has_zone(field):
            return DroppedZone(line, COLUMNS[index].name, value_text(field))
    return None


def first_zone(zones: Iterable[DroppedZone | None]) -> DroppedZone | None:
    """Return the one that comes first in the file."""
    return min((zone for zone in zones if zone is not None), default=None)
