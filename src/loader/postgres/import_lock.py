"""Selects the import for a file, and makes one loader its writer: an advisory lock and a fencing token.

The control connection holds the lock, which excludes other running loaders. The token is the attempt's number. It excludes
a killed loader whose backend still runs: each part's commit checks it (`check_attempt`), and a loader that begins an
attempt or removes the import increments it first.
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

# First half of the advisory lock keys of imports; the second half is the import_key. Any number does, but older versions of
# the loader use these two.
_LOCK_CLASS = 0x6C6F6164
# The same for locations; the second half is the hash of the location.
_LOCATION_LOCK_CLASS = 0x636C6169
_LOCK_RETRY_SECONDS = 0.2

# Selects the imports of a target's file, with the parameters of `_same_file`. A file without validator equals no other. Of
# two digests of one file the longer begins with the shorter; an import of ledger version 1 has none.
_SAME_FILE: LiteralString = (
    "location = %s AND source_bytes IS NOT DISTINCT FROM %s AND validator = %s"
    " AND (digest IS NULL OR starts_with(digest, %s) OR starts_with(%s, digest))"
)


class Target(msgspec.Struct, frozen=True):
    """The file that a loader is to import, as the probe found it, and how."""

    location: str
    source_bytes: int | None
    validator: str | None
    digest: str | None  # see source/base.py
    data_start: int
    column_count: int
    mode: Mode
    force: bool


class Attempt(msgspec.Struct, frozen=True):
    """One loader's attempt at an import."""

    import_key: int
    number: int  # the fencing token
    column_count: int


def find_or_insert(connection: Connection, import_id: UUID | None, target: Target) -> Import:
    """Return the import to load: the one with this id, else the unfinished one of the same file, else a new one.

    Raises ALREADY_IMPORTED if the same file is published, unless the target has `force` or the mode `replace`.
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
    """Wait for other transactions that select or publish imports of this location; block them until this one ends."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCATION_LOCK_CLASS, location])


def refuse_duplicate(connection: Connection, target: Target, own_key: int | None = None) -> None:
    """Raise ALREADY_IMPORTED if trips has rows of the same file by another import than `own_key`, unless that is allowed."""
    for twin in _find_twins(connection, target, own_key):
        missing = import_tables.find_missing(connection, twin)
        if missing is None:
            raise LoaderError(
                FailureCode.ALREADY_IMPORTED,
                f"This file (same URL, size, validator and digest) is already published, as import {twin.id}.",
                "No action needed. Use --force to import it again, or --mode replace to replace all rows of trips.",
            )
        if not missing.is_all:
            raise LoaderError(
                FailureCode.ALREADY_IMPORTED,
                f"This file is already published, as import {twin.id}, but {missing.what}.",
                f"Remove the rest of it by `loader drop {twin.id} --published`, then run the command again. --force imports"
                " the whole file in addition.",
            )


def duplicate_notes(connection: Connection, target: Target, own_key: int) -> list[str]:
    """Return a note for each published import of the same file whose rows are no longer in trips."""
    twins = _find_twins(connection, target, own_key)
    found = ((twin, import_tables.find_missing(connection, twin)) for twin in twins)
    return [
        f"Import {twin.id} of this file is published, but {missing.what}: the file is loaded again."
        for twin, missing in found
        if missing is not None and missing.is_all
    ]


def _find_twins(connection: Connection, target: Target, own_key: int | None) -> list[Import]:
    """Return the published imports because of which the file may not be loaded, if their rows are in trips."""
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
    """Lock an import until the connection ends; return False if another session has locked it."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return bool(
            cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [_LOCK_CLASS, import_key]).fetchone()
        )


def unlock(connection: Connection, import_key: int) -> None:
    """Release this session's lock on an import."""
    connection.execute("SELECT pg_advisory_unlock(%s, %s)", [_LOCK_CLASS, import_key])


def lock(connection: Connection, found: Import, interrupt: Interrupt, timeout_seconds: float) -> None:
    """Lock an import until the connection ends; raises IMPORT_BUSY after the timeout, Stopped."""
    deadline = time.monotonic() + timeout_seconds
    while not try_lock(connection, found.import_key):
        if time.monotonic() > deadline:
            raise LoaderError(
                FailureCode.IMPORT_BUSY,
                f"Another loader is loading import {found.id} of this file.",
                "Wait until it ends (`loader imports` shows the import), or stop it first.",
            )
        interrupt.sleep(_LOCK_RETRY_SECONDS)


def refuse_other_file(known: Import, target: Target) -> None:
    """Raise SOURCE_CHANGED if the import was started with another file, USAGE if it was started in another mode.

    A file without validator may change at the import's own location, because no attempt resumes it. From another location
    only a file that is proven to be the same resumes the import. A location has no query, so another file at the same
    location may be a wrong query: the caller must keep the staging.
    """
    if known.mode != target.mode:
        raise LoaderError(
            FailureCode.USAGE,
            f"Import {known.id} was started with --mode {known.mode}, not {target.mode}.",
            f"Run the command with --mode {known.mode}, or without --import-id to start another import.",
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
            differences.append("its first or last bytes differ")
    elif is_elsewhere:
        differences.append("without a validator, a file at another URL can't be proven to be the same")
    if not differences:
        return
    raise LoaderError(
        FailureCode.SOURCE_CHANGED,
        f"Import {known.id} was started with another file at {known.location}: {', '.join(differences)}.",
        "Run the command with the whole URL of that file. To import this one, run it without --import-id;"
        f" `loader drop {known.id}` removes what is kept of the other.",
    )


def _is_same_digest(one: str | None, other: str | None) -> bool:
    """Whether two digests may be of the same file. None, as for an import of ledger version 1, may be of any file."""
    if one is None or other is None:
        return True
    return one.startswith(other) or other.startswith(one)


def update_source(connection: Connection, known: Import, target: Target) -> None:
    """Record the file's current location, validator and digest, after `refuse_other_file`."""
    digest = target.digest
    if known.digest is not None and digest is not None and known.digest.startswith(digest):
        digest = known.digest  # this time the server did not send the tail
    connection.execute(
        "UPDATE loader.import SET location = %s, validator = %s, digest = %s WHERE import_key = %s",
        [target.location, target.validator, digest, known.import_key],
    )


def begin_attempt(connection: Connection, import_key: int) -> int | None:
    """Return the number of a new attempt, or None if the import is no longer loading.

    Waits for parts of older attempts that are in commit; later commits of them fail.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            "UPDATE loader.import SET attempt = attempt + 1 WHERE import_key = %s AND state = 'loading' RETURNING attempt",
            [import_key],
        ).fetchone()


def check_attempt(connection: Connection, import_key: int, attempt: int) -> None:
    """Raise IMPORT_BUSY unless this attempt is the current one; keep it current until the transaction ends."""
    current = connection.execute(
        "SELECT FROM loader.import WHERE import_key = %s AND attempt = %s AND state = 'loading' FOR SHARE",
        [import_key, attempt],
    ).fetchone()
    if current is None:
        raise superseded()


def superseded() -> LoaderError:
    """Return the error of a loader whose attempt is no longer the current one."""
    return LoaderError(
        FailureCode.IMPORT_BUSY,
        "Another loader has taken over this import, or is removing it.",
        "Wait until it ends; `loader imports` shows the import's state.",
    )
