"""Imports in the ledger with rows of their own, made by SQL: without a file, a worker or a process."""

from __future__ import annotations

import itertools
from uuid import UUID

import msgspec

from loader.cancellation import Interrupt
from loader.contract import Mode, Receipt
from loader.limits import Limits
from loader.postgres import import_lock, ledger, publish, staging
from loader.postgres.connection import Connection
from loader.postgres.import_lock import Attempt, Target
from loader.postgres.ledger import BlockRow

# Tests don't wait for locks unless they say so.
IMPATIENT = Limits(trips_lock_seconds=0.05, staging_lock_seconds=0.05)

_numbers = itertools.count(1)


class StagedImport(msgspec.Struct, frozen=True):
    """An import whose parts are attached to its table."""

    id: UUID
    attempt: Attempt
    target: Target
    receipt: Receipt
    parts: list[int]

    @property
    def table(self) -> str:
        return f"loader.import_{self.attempt.import_key}"

    def part_table(self, index: int) -> str:
        """Return the table of the part with this index."""
        return f"{self.table}_part_{self.parts[index]}"


def stage(
    connection: Connection, *, mode: Mode = "append", parts: int = 2, rows_per_part: int = 3
) -> StagedImport:
    """Stage an import of a file of its own, up to its publish."""
    target = Target(
        location=f"/files/{next(_numbers)}.csv",
        source_bytes=1000,
        validator="1",
        digest="abcd",
        data_start=10,
        column_count=24,
        mode=mode,
        force=False,
    )
    found = import_lock.find_or_insert(connection, None, target)
    number = import_lock.begin_attempt(connection, found.import_key)
    assert number is not None
    attempt = Attempt(found.import_key, number, target.column_count)
    staging.create_import_table(connection, found.import_key, Interrupt(), IMPATIENT)
    numbers = [_fill_part(connection, attempt, index, rows_per_part) for index in range(parts)]
    staging.attach_parts(connection, found.import_key, Interrupt(), IMPATIENT)
    return StagedImport(
        found.id, attempt, target, _receipt(found.id, attempt, parts * rows_per_part), numbers
    )


def publish_staged(
    connection: Connection,
    staged: StagedImport,
    *,
    interrupt: Interrupt | None = None,
    limits: Limits = IMPATIENT,
) -> None:
    """Publish a staged import."""
    publish.publish(
        connection, staged.attempt, staged.target, staged.receipt, interrupt or Interrupt(), limits
    )


def _fill_part(connection: Connection, attempt: Attempt, index: int, rows: int) -> int:
    key = attempt.import_key
    with connection.transaction():
        part = ledger.insert_part(connection, key)
        table = f"loader.import_{key}_part_{part}"
        for statement in (
            f"CREATE TABLE {table} (LIKE loader.import_{key} INCLUDING DEFAULTS INCLUDING CONSTRAINTS,"
            f" CONSTRAINT part_key CHECK (part = {part})) WITH (autovacuum_enabled = off)",
            f"ALTER TABLE {table} ALTER part SET DEFAULT {part}",
            f"INSERT INTO {table} (trip_miles) SELECT generate_series(1, {rows})",
        ):
            connection.execute(statement.encode())
        block = BlockRow(10 + 100 * index, 110 + 100 * index, rows, rows, 0, rows)
        ledger.insert_blocks(connection, key, part, [block])
        ledger.complete_part(connection, part, rows)
    return part


def _receipt(import_id: UUID, attempt: Attempt, rows: int) -> Receipt:
    return Receipt(
        import_id=str(import_id),
        import_key=attempt.import_key,
        source="/files",
        validator="1",
        source_bytes=1000,
        data_bytes=1000,
        length_verified=True,
        blocks=1,
        parts=1,
        rows_parsed=rows,
        rows_copied=rows,
        rows_published=rows,
        rows_rejected=0,
        attempts=attempt.number,
        seconds=1,
        published_at="2024-02-01T12:00:00+00:00",
    )
