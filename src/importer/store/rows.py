"""The control DB's rows as structs, and structs as values for its columns: JSON, and times as text."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from importer.model import Attempt, Import, State
from loader.contract import Failure, Job, Progress, Receipt

Parameters = Mapping[str, str | int | None]

# The columns are named as the structs' fields.
IMPORT_COLUMNS = ", ".join(Import.__struct_fields__)
ATTEMPT_COLUMNS = ", ".join(Attempt.__struct_fields__)

_JSON_COLUMNS = frozenset({"job", "progress", "error", "receipt"})
_FLAG_COLUMNS = frozenset({"keeps_staging"})


def imports(connection: sqlite3.Connection, sql: str, parameters: Parameters) -> list[Import]:
    """Execute a statement that returns IMPORT_COLUMNS."""
    return [msgspec.convert(_fields(row), Import) for row in connection.execute(sql, parameters).fetchall()]


def attempts(connection: sqlite3.Connection, sql: str, parameters: Parameters) -> list[Attempt]:
    """Execute a statement that returns ATTEMPT_COLUMNS."""
    return [msgspec.convert(_fields(row), Attempt) for row in connection.execute(sql, parameters).fetchall()]


def update_import(
    connection: sqlite3.Connection,
    import_id: UUID,
    origins: Collection[State],
    assignments: str,
    parameters: Parameters,
) -> list[Import]:
    """Change an import that is in one of these states; return it as it is then, or nothing."""
    return imports(
        connection,
        f"UPDATE import SET version = version + 1, {assignments} WHERE id = :id AND {among(origins)}"
        f" RETURNING {IMPORT_COLUMNS}",
        {"id": str(import_id), **parameters},
    )


def among(states: Collection[State]) -> str:
    """Return the condition that an import is in one of these states."""
    return "state IN (" + ", ".join(f"'{state}'" for state in states) + ")"


def json_text(value: Job | Progress | Failure | Receipt | None) -> str | None:
    """Return the JSON for a column."""
    return None if value is None else msgspec.json.encode(value).decode()


def time_text(moment: datetime | None) -> str | None:
    """Return the text for a column; that of a later time sorts behind it."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")


def _fields(row: sqlite3.Row) -> dict[str, object]:
    return {name: _value(name, row[name]) for name in row.keys()}  # noqa: SIM118 - a Row iterates over its values


def _value(name: str, stored: str | int | None) -> object:
    if name in _FLAG_COLUMNS:
        return stored == 1
    return msgspec.json.decode(stored) if name in _JSON_COLUMNS and isinstance(stored, str) else stored
