"""The limit on concurrent requests to one server: lowered when it rejects one, raised again as it responds.

Servers limit the connections of a client (429, 503). If only the rejected requests waited, they would wait ever longer,
and the consumer with them, since segments are delivered in order. So all requests share one limit.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from loader.cancellation import POLL_INTERVAL_SECONDS, raise_if_closed
from loader.http.retry import TransientError

# Successful responses in a row that raise the limit by one. If the server's own limit is fixed, it rejects one request
# in this many.
_SUCCESSES_PER_INCREASE = 16


class ConcurrencyLimit:
    """The requests to one server that are in flight. For several threads at once."""

    def __init__(self, max_requests: int, closed: threading.Event) -> None:
        self._max_requests = self._limit = max_requests
        self._closed = closed
        self._changed = threading.Condition()
        self._in_flight = self._successes = 0

    @contextmanager
    def slot(self) -> Generator[None]:
        """Hold the right to one request within `with`, after waiting for it. Raises SourceClosed."""
        with self._changed:
            while self._in_flight >= self._limit:
                raise_if_closed(self._closed)
                self._changed.wait(POLL_INTERVAL_SECONDS)
            self._in_flight += 1
        has_succeeded = is_overloaded = False
        try:
            yield
            has_succeeded = True
        except TransientError as failure:
            is_overloaded = failure.is_overloaded
            raise
        finally:
            self._end(has_succeeded=has_succeeded, is_overloaded=is_overloaded)

    def _end(self, *, has_succeeded: bool, is_overloaded: bool) -> None:
        with self._changed:
            self._in_flight -= 1
            if is_overloaded:
                # the server has accepted those that are left
                self._limit = max(min(self._limit, self._in_flight), 1)
                self._successes = 0
            elif has_succeeded:
                self._successes += 1
                if self._successes >= _SUCCESSES_PER_INCREASE:
                    self._limit = min(self._limit + 1, self._max_requests)
                    self._successes = 0
            self._changed.notify_all()
