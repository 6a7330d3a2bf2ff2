"""Retries actions that need a lock on trips or a part, so that readers run between two tries."""

from __future__ import annotations

import time
from collections.abc import Callable

from psycopg import errors as pg

from loader.cancellation import Interrupt
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres.connection import Connection

# The lock timeout of the first try: new readers queue behind a session that waits for a lock on trips.
FIRST_TIMEOUT_SECONDS = 1.0
# Each failed try doubles the timeout, up to this: overlapping readers release a lock only to a session that waits longer
# than they run. New readers wait no longer than this, and run between two tries for as long as the last try took.
_MAX_TIMEOUT_SECONDS = 8.0


def retry_while_locked(
    connection: Connection, action: Callable[[], None], interrupt: Interrupt, budget_seconds: float
) -> None:
    """Run `action` under a lock timeout, and repeat it while other sessions hold the lock that it needs.

    A table can have only one pending detach, so another session's counts as a lock (SQLSTATE 55000). Raises TABLE_LOCKED
    after `budget_seconds`, Stopped.
    """
    deadline = time.monotonic() + budget_seconds
    timeout_seconds = min(FIRST_TIMEOUT_SECONDS, budget_seconds)
    while True:
        set_lock_timeout(connection, timeout_seconds)
        try:
            action()
        except (pg.LockNotAvailable, pg.DeadlockDetected, pg.ObjectNotInPrerequisiteState) as error:
            if isinstance(error, pg.ObjectNotInPrerequisiteState) and not _is_detach_pending(connection):
                raise  # not a lock: publications, for instance, refuse changes of tables without a key
            if time.monotonic() > deadline:
                raise LoaderError(
                    FailureCode.TABLE_LOCKED,
                    f"Other sessions kept trips, or a part of it, locked for {budget_seconds:.0f} s.",
                    "Find them in pg_locks (a long report, pg_dump, an open transaction), then run the command again.",
                ) from error
            interrupt.sleep(timeout_seconds)
            timeout_seconds = min(2 * timeout_seconds, _MAX_TIMEOUT_SECONDS)
        else:
            set_lock_timeout(connection, 0)
            return


def set_lock_timeout(connection: Connection, seconds: float) -> None:
    """Set the session's lock timeout; 0: none."""
    connection.execute(f"SET lock_timeout = '{round(1000 * seconds)}ms'".encode())


def _is_detach_pending(connection: Connection) -> bool:
    """Whether a detach of a partition of trips or of an import's table is pending."""
    return connection.execute(
        "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending AND (inhparent = to_regclass('public.trips')"
        " OR inhparent IN (SELECT table_oid FROM loader.import)))"
    ).fetchone() == (True,)
