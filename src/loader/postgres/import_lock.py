"""How a loader becomes the one that loads an import, and stays it: the advisory lock, the attempt's number.

The lock, held by the control connection, keeps two live loaders apart. The number defeats a dead one whose backend
still commits: each part's commit looks at it (`check_attempt`), and whoever publishes or removes changes it first.
"""

from __future__ import annotations

import time
from typing import LiteralString
from uuid import UUID

import msgspec
import uuid_utils.compat
from psycopg.rows import scalar_row

from loader.cancellation import Interrupt
from loader.contract import FailureCode, Mode
from loader.errors import LoaderError
from loader.postgres import import_tables
from loader.postgres.connection import Connection
from loader.postgres.ledger import Import, find_import, get_import, select_imports

# First half of the advisory lock keys of imports ("load"); the second half is the import_key.
_LOCK_CLASS = 0x6C6F6164
# First half of the locks that put claims of one location in turn ("clai"); the second half is the location's hash.
_LOCATION_LOCK_CLASS = 0x636C6169
_LOCK_RETRY_SECONDS = 0.2


# Which imports are of the target's file, as `_same_file` gives it: a file without validator is none. Of two digests of one
# file the longer begins with the shorter; an import of ledger version 1 has none.
_SAME_FILE: LiteralString = (
    "location = %s AND source_bytes IS NOT DISTINCT FROM %s AND validator = %s"
    " AND (digest IS NULL OR starts_with(digest, %s) OR starts_with(%s, digest))"
)


class Target(msgspec.Struct, frozen=True):
    """What a loader wants to import, as the probe saw it."""

    location: str
    source_bytes: int | None
    validator: str | None
    digest: str | None  # see base.py
    data_start: int
    column_count: int
    mode: Mode
    force: bool


class Attempt(msgspec.Struct, frozen=True):
    """Which import, and which loader's try at it."""

    import_key: int
    number: int
    column_count: int


def find_or_insert(connection: Connection, import_id: UUID | None, target: Target) -> Import:
    """Return the import to go on with: the one with this id, else the unfinished one of this very file, else a new one.

    Raises ALREADY_IMPORTED when this very file is published and the target says neither force nor replace.
    """
    with connection.transaction():
        serialize_by_location(connection, target.location)
        if import_id is not None and (known := find_import(connection, import_id)) is not None:
            return known
        refuse_duplicate(connection, target)
        if import_id is None and (unfinished := _find_unfinished(connection, target)) is not None:
            return unfinished
        new_id = import_id or uuid_utils.compat.uuid7()
        connection.execute(
            "INSERT INTO loader.import (id, mode, location, source_bytes, validator, digest, data_start, column_count)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                new_id,
                target.mode,
                target.location,
                target.source_bytes,
                target.validator,
                target.digest,
                target.data_start,
                target.column_count,
            ],
        )
        return get_import(connection, new_id)


def serialize_by_location(connection: Connection, location: str) -> None:
    """Let only one transaction at a time, until it ends, look for and change imports of a location."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCATION_LOCK_CLASS, location])


def refuse_duplicate(connection: Connection, target: Target, own_key: int | None = None) -> None:
    """Raise ALREADY_IMPORTED when trips has rows of this very file by another import than our own, unless that is wanted."""
    for twin in _find_twins(connection, target, own_key):
        missing = import_tables.find_missing(connection, twin)
        if missing is None:
            raise LoaderError(
                FailureCode.ALREADY_IMPORTED,
                f"This very file (same address, size, validator and digest) is published already, as import {twin.id}.",
                "Nothing need be done. --force imports it once more; --mode replace puts it in place of all in trips.",
            )
        if not missing.is_all:
            raise LoaderError(
                FailureCode.ALREADY_IMPORTED,
                f"This very file is published already, as import {twin.id}, but {missing.what}.",
                f"`loader drop {twin.id} --published` removes what is left of it; then run the command again. --force loads"
                " the whole file beside it.",
            )


def duplicate_notes(connection: Connection, target: Target, own_key: int) -> list[str]:
    """Return a note for each import of this very file that is published, and whose rows are no longer in trips."""
    twins = _find_twins(connection, target, own_key)
    found = ((twin, import_tables.find_missing(connection, twin)) for twin in twins)
    return [
        f"Import {twin.id} of this very file is published, but {missing.what}: the file is loaded again."
        for twin, missing in found
        if missing is not None and missing.is_all
    ]


def _find_twins(connection: Connection, target: Target, own_key: int | None) -> list[Import]:
    """Return the published imports of this very file that speak against loading it."""
    if target.force or target.mode == "replace" or target.validator is None:
        return []
    return select_imports(
        connection,
        f"state = 'published' AND {_SAME_FILE} AND import_key IS DISTINCT FROM %s",
        [*_same_file(target), own_key],
    )


def _same_file(target: Target) -> list[object]:
    return [target.location, target.source_bytes, target.validator, target.digest, target.digest]


def _find_unfinished(connection: Connection, target: Target) -> Import | None:
    if target.validator is None:
        return None
    found = select_imports(
        connection,
        f"state = 'loading' AND {_SAME_FILE} AND mode = %s",
        [*_same_file(target), target.mode],
    )
    return found[0] if found else None


def try_lock(connection: Connection, import_key: int) -> bool:
    """Become the one holder of an import until the connection ends, or return False when there is another."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return bool(
            cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [_LOCK_CLASS, import_key]).fetchone()
        )


def unlock(connection: Connection, import_key: int) -> None:
    """Stop being the holder."""
    connection.execute("SELECT pg_advisory_unlock(%s, %s)", [_LOCK_CLASS, import_key])


def lock(connection: Connection, claimed: Import, interrupt: Interrupt, timeout_seconds: float) -> None:
    """Become the one holder of an import until the connection ends; raises IMPORT_BUSY after the timeout, Stopped."""
    deadline = time.monotonic() + timeout_seconds
    while not try_lock(connection, claimed.import_key):
        if time.monotonic() > deadline:
            raise LoaderError(
                FailureCode.IMPORT_BUSY,
                f"Another loader holds import {claimed.id} of this file.",
                "Let it finish (`loader imports` shows it), or stop it first.",
            )
        interrupt.sleep(_LOCK_RETRY_SECONDS)


def refuse_other_file(known: Import, target: Target) -> None:
    """Raise SOURCE_CHANGED when the import was begun with another file, USAGE when it was begun in another mode.

    At the import's own location a file without validator may change: nothing of it can be gone on from. At another location
    only a file that is proven to be the same may go on with it.
    """
    if known.mode != target.mode:
        raise LoaderError(
            FailureCode.USAGE,
            f"Import {known.id} was begun with --mode {known.mode}, not {target.mode}.",
            f"Run the command with --mode {known.mode}, or without --import-id to begin another import.",
        )
    is_elsewhere = known.location != target.location
    differences = [
        f"its {what} was {then} and is {now}"
        for what, then, now in (
            ("size", known.source_bytes, target.source_bytes),
            ("header length", known.data_start, target.data_start),
            ("number of columns", known.column_count, target.column_count),
        )
        if then != now
    ]
    if known.validator is not None:
        if known.validator != target.validator:
            differences.append(f"its validator was {known.validator} and is {target.validator}")
        if not _is_same_digest(known.digest, target.digest):
            differences.append("its first or last bytes are others")
    elif is_elsewhere:
        differences.append("it has no validator that would prove the file at another address to be the same")
    if not differences:
        return
    where = f" at {known.location}" if is_elsewhere else ""
    raise LoaderError(
        FailureCode.SOURCE_CHANGED,
        f"Import {known.id} was begun with another file{where}: {', '.join(differences)}.",
        "Run the command with the address of that file, or without --import-id to import this one."
        if is_elsewhere
        else "What it had loaded is removed; run the command with a new import id to load the file as it is now.",
    )


def _is_same_digest(one: str | None, other: str | None) -> bool:
    """Whether two digests may be of one file. An import of ledger version 1 has none, which tells nothing."""
    if one is None or other is None:
        return True
    return one.startswith(other) or other.startswith(one)


def note_file(connection: Connection, known: Import, target: Target) -> None:
    """Record where an import's file is now, and what tells it from others: see `refuse_other_file` for who may."""
    digest = target.digest
    if known.digest is not None and digest is not None and known.digest.startswith(digest):
        digest = known.digest  # the server has not sent the tail this time
    connection.execute(
        "UPDATE loader.import SET location = %s, validator = %s, digest = %s WHERE import_key = %s",
        [target.location, target.validator, digest, known.import_key],
    )


def begin_attempt(connection: Connection, import_key: int) -> int | None:
    """Return the number of a new attempt, or None when the import is no longer loading.

    Waits for parts of an older attempt that commit at this moment, and defeats those that would later.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            "UPDATE loader.import SET attempt = attempt + 1 WHERE import_key = %s AND state = 'loading' RETURNING attempt",
            [import_key],
        ).fetchone()


def check_attempt(connection: Connection, import_key: int, attempt: int) -> None:
    """Raise IMPORT_BUSY unless this attempt is the current one; then it stays so until the transaction ends."""
    current = connection.execute(
        "SELECT FROM loader.import WHERE import_key = %s AND attempt = %s AND state = 'loading' FOR SHARE",
        [import_key, attempt],
    ).fetchone()
    if current is None:
        raise superseded()


def superseded() -> LoaderError:
    """Return the error of a loader whose import is in other hands."""
    return LoaderError(
        FailureCode.IMPORT_BUSY,
        "Another loader has taken this import over, or removes it.",
        "Let it finish; `loader imports` shows where it stands.",
    )
