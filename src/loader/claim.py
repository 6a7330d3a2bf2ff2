"""How a loader becomes the one that loads an import, and stays it: the advisory lock, the attempt's number.

The lock, held by the control connection, keeps two live loaders apart. The number defeats a dead one whose backend
still commits: each part's commit looks at it (`check_attempt`), and whoever publishes or removes changes it first.
"""

from __future__ import annotations

import time
from uuid import UUID

import msgspec
import uuid_utils.compat
from psycopg.rows import scalar_row

from loader.database import Connection
from loader.errors import LoaderError
from loader.interrupt import Interrupt
from loader.ledger import Import, find_import, get_import, select_imports
from loader.wire import FailureCode, Mode

# First half of the advisory lock keys of imports ("load"); the second half is the import_key.
_LOCK_CLASS = 0x6C6F6164
# First half of the locks that put claims of one location in turn ("clai"); the second half is the location's hash.
_LOCATION_LOCK_CLASS = 0x636C6169
# A server may need this long to notice that the loader which held the import was killed.
LOCK_TIMEOUT_SECONDS = 10.0
_LOCK_RETRY_SECONDS = 0.2


class Target(msgspec.Struct, frozen=True):
    """What a loader wants to import, as the probe saw it."""

    location: str
    source_bytes: int | None
    validator: str | None
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
        take_turn(connection, target.location)
        if import_id is not None and (known := find_import(connection, import_id)) is not None:
            return known
        refuse_duplicate(connection, target)
        if import_id is None and (unfinished := _find_unfinished(connection, target)) is not None:
            return unfinished
        new_id = import_id or uuid_utils.compat.uuid7()
        connection.execute(
            "INSERT INTO loader.import (id, mode, location, source_bytes, validator, data_start, column_count)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [
                new_id,
                target.mode,
                target.location,
                target.source_bytes,
                target.validator,
                target.data_start,
                target.column_count,
            ],
        )
        return get_import(connection, new_id)


def take_turn(connection: Connection, location: str) -> None:
    """Let only one transaction at a time, until it ends, look for and change imports of a location."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCATION_LOCK_CLASS, location])


def refuse_duplicate(connection: Connection, target: Target, own_key: int | None = None) -> None:
    """Raise ALREADY_IMPORTED when an import of this very file, other than our own, is published, unless that is wanted."""
    if target.force or target.mode == "replace" or target.validator is None:
        return
    twins = select_imports(
        connection,
        "state = 'published' AND location = %s AND source_bytes IS NOT DISTINCT FROM %s AND validator = %s"
        " AND import_key IS DISTINCT FROM %s",
        [target.location, target.source_bytes, target.validator, own_key],
    )
    if twins:
        raise LoaderError(
            FailureCode.ALREADY_IMPORTED,
            f"This very file (same address, size and validator) is published already, as import {twins[0].id}.",
            "Nothing need be done. --force imports it once more; --mode replace puts it in place of all in trips.",
        )


def _find_unfinished(connection: Connection, target: Target) -> Import | None:
    if target.validator is None:
        return None
    found = select_imports(
        connection,
        "state = 'loading' AND location = %s AND source_bytes IS NOT DISTINCT FROM %s AND validator = %s AND mode = %s",
        [target.location, target.source_bytes, target.validator, target.mode],
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


def lock(connection: Connection, claimed: Import, interrupt: Interrupt) -> None:
    """Become the one holder of an import until the connection ends; raises IMPORT_BUSY, Stopped."""
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while not try_lock(connection, claimed.import_key):
        if time.monotonic() > deadline:
            raise LoaderError(
                FailureCode.IMPORT_BUSY,
                f"Another loader holds import {claimed.id} of this file.",
                "Let it finish (`loader imports` shows it), or stop it first.",
            )
        interrupt.sleep(_LOCK_RETRY_SECONDS)


def refuse_other_file(known: Import, target: Target) -> None:
    """Raise SOURCE_CHANGED when the import was begun with other bytes, or to another end, than the loader has now."""
    for what, then, now in (
        ("size", known.source_bytes, target.source_bytes),
        ("validator", known.validator, target.validator),
        ("header length", known.data_start, target.data_start),
        ("number of columns", known.column_count, target.column_count),
        ("mode", known.mode, target.mode),
    ):
        if then != now:
            raise LoaderError(
                FailureCode.SOURCE_CHANGED,
                f"Import {known.id} was begun with another file: its {what} was {then} and is {now}.",
                "What it had loaded is removed; run the command with a new import id to load the file as it is now.",
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
