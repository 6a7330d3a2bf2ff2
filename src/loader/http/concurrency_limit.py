"""How many requests one server takes at once: fewer after it has turned one away, more again as it answers.

Servers limit the connections of a client (429, 503). Those that are turned away would wait ever longer, while what they
were to fetch is what everybody waits for; so the others hold back instead.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from loader.cancellation import POLL_INTERVAL_SECONDS, SourceClosed
from loader.http.retry import TransientError

# Answers in a row for one request more at once: where the limit is the server's for good, one of so many is turned away.
_ANSWERS_FOR_ONE_MORE = 16


class ConcurrencyLimit:
    """The requests to one server that are under way. For several threads at once."""

    def __init__(self, most: int, closed: threading.Event) -> None:
        """`most`: requests that anybody wants to have under way at once."""
        self._most = self._limit = most
        self._closed = closed
        self._changed = threading.Condition()
        self._under_way = self._answers = 0

    @contextmanager
    def turn(self) -> Generator[None]:
        """Wait until one more request may be made, and see how it ends. Raises SourceClosed."""
        with self._changed:
            while self._under_way >= self._limit:
                if self._closed.is_set():
                    raise SourceClosed
                self._changed.wait(POLL_INTERVAL_SECONDS)
            self._under_way += 1
        is_answered = is_turned_away = False
        try:
            yield
            is_answered = True
        except TransientError as failure:
            is_turned_away = failure.is_turned_away
            raise
        finally:
            self._end(is_answered=is_answered, is_turned_away=is_turned_away)

    def _end(self, *, is_answered: bool, is_turned_away: bool) -> None:
        with self._changed:
            self._under_way -= 1
            if is_turned_away:
                # as many as are left: those are the ones it takes
                self._limit = max(min(self._limit, self._under_way), 1)
                self._answers = 0
            elif is_answered:
                self._answers += 1
                if self._answers >= _ANSWERS_FOR_ONE_MORE:
                    self._limit = min(self._limit + 1, self._most)
                    self._answers = 0
            self._changed.notify_all()
