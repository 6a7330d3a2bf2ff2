"""How a run ends that does not publish: what becomes of the staging, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import wait
from uuid import UUID

import msgspec

from loader import aside, claim, ledger, removal, trips_table
from loader.database import Connection, Database, end_backends
from loader.errors import LoaderError, known
from loader.failpoint import reach
from loader.interrupt import Interrupt, StopReason
from loader.wire import Failed, Failure, FailureCode, Published, Receipt

# A roll back that can't reach the database, or waits for a lock, is tried for this long: a person waits for it.
_BUDGET_SECONDS = 10.0
_RETRY_SECONDS = 0.5
# A server that does not finish a step for so long hangs: the longest is to drop a part of some GB, which takes it a second.
_HANG_SECONDS = 60.0

_STOP_FAILURES = {
    StopReason.TERMINATED: (
        FailureCode.TERMINATED,
        "The import was stopped by SIGTERM and rolled back.",
        "trips is as it was.",
    ),
    StopReason.INTERRUPTED: (
        FailureCode.INTERRUPTED,
        "The import was stopped by SIGINT and rolled back.",
        "trips is as it was.",
    ),
    StopReason.SUSPENDED: (
        FailureCode.SUSPENDED,
        "The import was told to stop and to keep what is committed.",
        "Run the same command again: it goes on from there.",
    ),
}


def stop_failure(reason: StopReason) -> Failure:
    """Return the failure that a request to stop is."""
    return LoaderError(*_STOP_FAILURES[reason]).failure


def end_unpublished(
    failure: Failure,
    *,
    database_url: str,
    import_id: UUID | None,
    is_claimed: bool,
    is_resumable: bool,
    is_in_doubt: bool,
    on_part: Callable[[int, int], None],
) -> Failed | Published:
    """Keep the staging where the same command can go on from it, else roll it back; say which.

    An import that turns out to be published, whatever we were told, ends as published: the ledger decides. `is_in_doubt`:
    its commit was begun.
    """
    shown_id = str(import_id) if import_id else None
    if failure.code is FailureCode.IMPORT_BUSY:
        return Failed(failure, "kept", shown_id)  # another's, who is at it
    if import_id is None:
        return Failed(failure, "none")  # nothing was begun
    is_kept = failure.retryable and is_resumable
    if is_kept and not is_in_doubt:
        return Failed(failure, "kept" if is_claimed else "unknown", shown_id)
    try:
        if is_kept:
            receipt = _retried(lambda _: _ask(database_url, import_id))
        else:
            receipt = _retried(lambda on_step: _roll_back(database_url, import_id, on_part, on_step))
    except Exception as error:
        return Failed(failure if is_kept else _cleanup_pending(failure, known(error)), "unknown", shown_id)
    if receipt is not None:
        return Published(receipt)
    return Failed(failure, "kept" if is_kept else "none", shown_id)


def _cleanup_pending(failure: Failure, error: LoaderError) -> Failure:
    if failure.code not in (FailureCode.TERMINATED, FailureCode.INTERRUPTED):
        return msgspec.structs.replace(
            failure, hint=f"{failure.hint} What was loaded could not be removed ({error}): run `loader gc`."
        )
    return LoaderError(
        FailureCode.CLEANUP_PENDING,
        f"Loading was stopped, but what was loaded could not be removed: {error}",
        "When the database is back, run `loader gc`, or `loader drop` with the import's id.",
    ).failure


def _retried(action: Callable[[Callable[[], None]], Receipt | None]) -> Receipt | None:
    """Do what needs the database, repeatedly where that is away. `action` calls what it gets at each step."""
    deadline = time.monotonic() + _BUDGET_SECONDS
    while True:
        try:
            return _unless_it_hangs(action)
        except LoaderError as error:
            if error.code is not FailureCode.DATABASE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECONDS)


def _unless_it_hangs(action: Callable[[Callable[[], None]], Receipt | None]) -> Receipt | None:
    step_seen = time.monotonic()

    def on_step() -> None:
        nonlocal step_seen
        step_seen = time.monotonic()

    answer = aside.begin(lambda: action(on_step))
    while not wait([answer], _RETRY_SECONDS).done:
        if time.monotonic() - step_seen > _HANG_SECONDS:
            raise LoaderError(
                FailureCode.DATABASE_UNAVAILABLE,
                f"The database has not answered for {_HANG_SECONDS:.0f} s.",
                "See what its sessions called `loader … roll back` wait for.",
            )
    return answer.result()


def _roll_back(
    database_url: str,
    import_id: UUID,
    on_part: Callable[[int, int], None],
    on_step: Callable[[], None],
) -> Receipt | None:
    """Remove the staging; return the receipt instead when the import is published."""
    undisturbed = Interrupt()

    def on_removed(parts: int, parts_total: int) -> None:
        on_part(parts, parts_total)
        on_step()

    with Database(database_url).connection("roll back") as connection:
        end_backends(connection)  # first: one may be about to commit the import's row
        if not trips_table.exists(connection) or (found := ledger.find_import(connection, import_id)) is None:
            return None
        reach()
        claim.lock(connection, found, undisturbed)
        if removal.mark(connection, found.import_key, published=False):
            reach()
            removal.remove(connection, found.import_key, undisturbed, on_removed, _BUDGET_SECONDS)
            return None
        return _receipt(connection, import_id)


def _ask(database_url: str, import_id: UUID) -> Receipt | None:
    """Return the receipt of the import if it is published, after a commit whose answer we may not have got."""
    with Database(database_url).connection("receipt") as connection:
        end_backends(connection)
        return _receipt(connection, import_id)


def _receipt(connection: Connection, import_id: UUID) -> Receipt | None:
    found = ledger.find_import(connection, import_id)
    return msgspec.json.decode(found.receipt, type=Receipt) if found and found.receipt else None
