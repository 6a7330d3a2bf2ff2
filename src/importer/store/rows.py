"""The control DB's rows as structs, and the values of its columns: JSON, and times as text."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from uuid import UUID

import aiosqlite
import msgspec

from importer.model import Attempt, Import, State
from loader.contract import Failure, Job, Progress, Receipt

Parameters = Mapping[str, str | int | None]

# The columns have the names and the order of the structs' fields.
IMPORT_COLUMNS = ", ".join(Import.__struct_fields__)
ATTEMPT_COLUMNS = ", ".join(Attempt.__struct_fields__)

_JSON_COLUMNS = frozenset({"job", "progress", "error", "receipt"})
_FLAG_COLUMNS = frozenset({"keeps_staging"})


async def select(
    connection: aiosqlite.Connection, sql: str, parameters: Parameters | None = None
) -> list[sqlite3.Row]:
    """Execute a statement and return all its rows."""
    # Closes the cursor also if a row can't be decoded: a statement that is still open makes COMMIT fail.
    async with connection.execute(sql, parameters or {}) as cursor:
        return list(await cursor.fetchall())


async def imports(connection: aiosqlite.Connection, sql: str, parameters: Parameters) -> list[Import]:
    """Execute a statement that returns IMPORT_COLUMNS."""
    found = await select(connection, sql, parameters)
    return [msgspec.convert(_fields(Import.__struct_fields__, row), Import) for row in found]


async def attempts(connection: aiosqlite.Connection, sql: str, parameters: Parameters) -> list[Attempt]:
    """Execute a statement that returns ATTEMPT_COLUMNS."""
    found = await select(connection, sql, parameters)
    return [msgspec.convert(_fields(Attempt.__struct_fields__, row), Attempt) for row in found]


async def update_import(
    connection: aiosqlite.Connection,
    import_id: UUID,
    origins: Collection[State],
    assignments: str,
    parameters: Parameters,
) -> list[Import]:
    """Change an import if it is in one of these states; return it as changed, or an empty list."""
    return await imports(
        connection,
        f"UPDATE import SET version = version + 1, {assignments} WHERE id = :id AND {state_in(origins)}"
        f" RETURNING {IMPORT_COLUMNS}",
        {"id": str(import_id), **parameters},
    )


def state_in(states: Collection[State]) -> str:
    """Return the SQL condition that an import is in one of these states."""
    return "state IN (" + ", ".join(f"'{state}'" for state in states) + ")"


def json_text(value: Job | Progress | Failure | Receipt | None) -> str | None:
    """Return the JSON for a column."""
    return None if value is None else msgspec.json.encode(value).decode()


def time_text(moment: datetime | None) -> str | None:
    """Return the text for a column; texts sort as their times do."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")


def _fields(names: Iterable[str], row: sqlite3.Row) -> dict[str, object]:
    return {name: _value(name, stored) for name, stored in zip(names, row, strict=True)}


def _value(name: str, stored: str | int | None) -> object:
    if name in _FLAG_COLUMNS:
        return stored == 1
    return msgspec.json.decode(stored) if name in _JSON_COLUMNS and isinstance(stored, str) else stored
