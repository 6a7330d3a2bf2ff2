"""Whether the database still answers: asked over a connection of its own when nothing has moved for a while.

TCP finds a peer that is gone, by the limits in connection.py. It does not find one that is there and says nothing: a proxy
that has lost its server, or one answer of it. Who waits for that would wait for ever.
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

# Twice in a row without an answer the database is given up, after about as long as TCP takes to find that a peer is gone,
# or twice that where it lets newcomers in and says nothing.
# A refusal may be that of a proxy that has lost its server, or of a server that is full: libpq gives no SQLSTATE for those
# it does not let in. So it weighs less: eight in a row, about two minutes of them, are needed.
_SILENCE_WEIGHT, _REFUSAL_WEIGHT, _MAX_WEIGHT = 4, 1, 8

_UNHEARD = (
    "SELECT FROM pg_stat_activity WHERE pid = ANY(%s) AND state LIKE 'idle%%'"
    " AND state_change < clock_timestamp() - make_interval(secs => %s)"
)


class Watchdog:
    """Aborts the connections of a database that has fallen silent, within `with`."""

    def __init__(self, database: Database, movement: Callable[[], object], interval_seconds: float) -> None:
        """`movement` returns another value whenever the import has moved; `interval_seconds`: see Limits."""
        self._database = database
        self._movement = movement
        self._interval_seconds = interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        last, strikes = self._movement(), 0
        while strikes < _MAX_WEIGHT:
            if self._ended.wait(self._interval_seconds):
                return
            now = self._movement()
            weight = self._ask() if now == last else 0
            strikes = strikes + weight if weight else 0
            last = now
        self._database.abort()

    def _ask(self) -> int:
        """Return how much speaks against a server that answers newcomers, and owes us no answer that it takes for given."""
        waiting = self._database.waiting_backends()
        answer = run_in_daemon_thread(lambda: self._is_unheard(waiting))
        if not wait([answer], self._interval_seconds).done:
            return _SILENCE_WEIGHT
        try:
            return _SILENCE_WEIGHT if answer.result() else 0
        except LoaderError as error:
            return _weight(error.__cause__)

    def _is_unheard(self, waiting: list[int]) -> bool:
        with self._database.connection("pulse") as connection:
            return connection.execute(_UNHEARD, [waiting, self._interval_seconds]).fetchone() is not None


def _weight(cause: BaseException | None) -> int:
    """Return what an error says: what the server has sent about a statement is an answer, what a pooler has is not.

    Class 08 of SQLSTATE is about connections: https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    match cause:
        case pg.ConnectionTimeout():
            return _SILENCE_WEIGHT
        case psycopg.Error(sqlstate=None):
            return _REFUSAL_WEIGHT
        case psycopg.Error(sqlstate=str(sqlstate)) if sqlstate.startswith("08"):
            return _SILENCE_WEIGHT
        case _:
            return 0
