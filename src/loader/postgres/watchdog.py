"""Detects a database that is connected and silent: asks it over a new connection when no rows have moved for a while.

The TCP limits of connection.py detect a lost peer. They don't detect a proxy that has lost its server, or one lost
response: the connection stays up, and a session that waits for the response would wait forever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait

import psycopg
from psycopg import errors as pg

from loader.cancellation import run_in_daemon_thread
from loader.errors import LoaderError
from loader.postgres.connection import Database

# Two checks in a row without a response abort the connections: after 30 to 60 s, as TCP takes to detect a lost peer. A
# refusal may come from a proxy that has lost its server, or from a full server: libpq gives no SQLSTATE for either. So it
# counts less than silence: eight in a row, about two minutes of them, abort the connections.
_SILENCE_STRIKES, _REFUSAL_STRIKES, _MAX_STRIKES = 4, 1, 8

# Backends of ours that the server takes for idle while we wait for their response.
_LOST_RESPONSE = (
    "SELECT FROM pg_stat_activity WHERE pid = ANY(%s) AND state LIKE 'idle%%'"
    " AND state_change < clock_timestamp() - make_interval(secs => %s)"
)


class Watchdog:
    """Aborts the connections of a database that does not respond, while the context lasts."""

    def __init__(self, database: Database, progress: Callable[[], object], interval_seconds: float) -> None:
        """`progress` returns another value whenever the import has made progress.

        `interval_seconds`: the time without progress before a check, and the limit for its response.
        """
        self._database = database
        self._progress = progress
        self._interval_seconds = interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        last, strikes = self._progress(), 0
        while strikes < _MAX_STRIKES:
            if self._ended.wait(self._interval_seconds):
                return
            now = self._progress()
            added = self._check() if now == last else 0
            strikes = strikes + added if added else 0
            last = now
        self._database.abort()

    def _check(self) -> int:
        """Return the strikes to add; 0 if the server responds and no response was lost."""
        waiting = self._database.waiting_backends()
        check = run_in_daemon_thread(lambda: self._has_lost_response(waiting))
        if not wait([check], self._interval_seconds).done:
            return _SILENCE_STRIKES
        try:
            return _SILENCE_STRIKES if check.result() else 0
        except LoaderError as error:
            return _strikes(error.__cause__)

    def _has_lost_response(self, waiting: list[int]) -> bool:
        with self._database.connection("watchdog") as connection:
            return (
                connection.execute(_LOST_RESPONSE, [waiting, self._interval_seconds]).fetchone() is not None
            )


def _strikes(cause: BaseException | None) -> int:
    """Return the strikes for a failed check. An error that the server sends for a statement is a response: 0.

    SQLSTATE class 08 is about connections, and comes from a pooler:
    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    match cause:
        case pg.ConnectionTimeout():
            return _SILENCE_STRIKES
        case psycopg.Error(sqlstate=None):
            return _REFUSAL_STRIKES
        case psycopg.Error(sqlstate=str(sqlstate)) if sqlstate.startswith("08"):
            return _SILENCE_STRIKES
        case _:
            return 0
