"""The import that an attempt loads: locked by this loader, of this file, without parts that are lost."""

from __future__ import annotations

from functools import partial

import msgspec

from loader import failpoint
from loader.contract import Receipt
from loader.pipeline.state import ImportState, RunContext
from loader.postgres import import_lock, import_tables, ledger, remove, staging
from loader.postgres.connection import Connection
from loader.postgres.import_lock import Attempt, Target
from loader.postgres.ledger import Import
from loader.postgres.lock_retry import retry_while_locked


class LockedImport(msgspec.Struct, frozen=True):
    """The import that this loader has locked, and the loader's attempt at it."""

    known: Import
    attempt: Attempt
    notes: list[str]


def lock_import(
    context: RunContext, state: ImportState, control: Connection, target: Target, *, is_resumable: bool
) -> LockedImport | Receipt:
    """Lock the import and start an attempt; return its receipt where it is published already.

    Drops the parts of an earlier attempt if this one can't resume from them. Raises ALREADY_IMPORTED, IMPORT_BUSY,
    IMPORT_DETACHED, SOURCE_CHANGED, USAGE, TABLE_LOCKED, TABLE_MISMATCH, Stopped.
    """
    locked = _lock(context, state, control, target)
    if isinstance(locked, Receipt):
        return locked
    known, number = locked
    import_lock.refuse_other_file(known, target)
    import_lock.update_source(control, known, target)
    state.is_owned = True
    state.is_resumable = is_resumable  # only now: another import's staging is not this source's
    interrupt, limits = context.interrupt, context.limits
    if not is_resumable or known.validator is None:
        for part in ledger.parts(control, known.import_key):
            drop = partial(remove.drop_part, control, known.import_key, part)
            retry_while_locked(control, drop, interrupt, limits.trips_lock_seconds)
    failpoint.hit()
    staging.create_import_table(control, known.import_key, interrupt, limits)
    failpoint.hit()
    notes: list[str] = []
    if lost := import_tables.lost_parts(control, known.import_key):
        ledger.delete_parts(control, lost)
        notes.append(f"{len(lost):,} loaded parts were dropped, renamed or moved: they are loaded again.")
    notes += import_lock.duplicate_notes(control, target, known.import_key)
    return LockedImport(known, Attempt(known.import_key, number, known.column_count), notes)


def _lock(
    context: RunContext, state: ImportState, control: Connection, target: Target
) -> tuple[Import, int] | Receipt:
    """Find or insert the import, lock it and start an attempt; return it with the attempt's number."""
    while True:
        found = import_lock.find_or_insert(control, state.import_id, target)
        if found.attempt == 0:  # nothing of it is loaded: this run may remove it if it is stopped here
            state.import_id = found.id
        failpoint.hit()
        import_lock.lock(control, found, context.interrupt, context.limits.import_lock_seconds)
        state.import_id = found.id  # not owned yet: if the file is another one, the staging is kept
        number = import_lock.begin_attempt(control, found.import_key)
        if number is not None:
            return found, number
        now = ledger.find_import(control, found.id)
        if now is not None and now.state == "published" and (receipt := now.read_receipt()) is not None:
            if (missing := import_tables.find_missing(control, now)) is not None:
                raise import_tables.detached_error(now, missing.what)
            return receipt
        if now is not None:
            remove.remove(
                control,
                found.import_key,
                context.interrupt,
                context.meter.removed,
                context.limits.trips_lock_seconds,
            )
        import_lock.unlock(control, found.import_key)
