"""Whether the database still answers: asked over a connection of its own when nothing has moved for a while.

TCP finds a peer that is gone, by the limits in database.py. It does not find one that is there and says nothing: a proxy
that has lost its server, or one answer of it. Who waits for that would wait for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from psycopg import errors as pg

from loader.database import Database
from loader.errors import LoaderError

# How long nothing must have moved before the database is asked; twice in a row without an answer it is given up. Together
# about as long as TCP takes to find that a peer is gone.
INTERVAL_SECONDS = 15.0
_MOST_SILENCES = 2

_UNHEARD = (
    "SELECT FROM pg_stat_activity WHERE pid = ANY(%s) AND state LIKE 'idle%%'"
    " AND state_change < clock_timestamp() - make_interval(secs => %s)"
)


class Pulse:
    """Aborts the connections of a database that has fallen silent, within `with`."""

    def __init__(self, database: Database, movement: Callable[[], object]) -> None:
        """`movement` returns another value whenever the import has moved."""
        self._database = database
        self._movement = movement
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        last, silences = self._movement(), 0
        while silences < _MOST_SILENCES:
            if self._ended.wait(INTERVAL_SECONDS):
                return
            now = self._movement()
            silences = silences + 1 if now == last and not self._is_answering() else 0
            last = now
        self._database.abort()

    def _is_answering(self) -> bool:
        """Whether the server answers newcomers, and owes us no answer that it takes for given. A refusal is an answer."""
        waiting = self._database.waiting_backends()
        try:
            with self._database.connection("pulse") as connection:
                return not connection.execute(_UNHEARD, [waiting, INTERVAL_SECONDS]).fetchall()
        except LoaderError as error:
            return not isinstance(error.__cause__, pg.ConnectionTimeout)
