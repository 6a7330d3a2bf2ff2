"""Failures of a request that may pass, and the budget of retries for them."""

from __future__ import annotations

import email.utils
import random
import threading
import time

from loader.cancellation import SourceClosed, raise_if_closed
from loader.errors import LoaderError
from loader.limits import RetryPolicy


class TransientError(Exception):
    """One request failed in a way that may pass."""

    def __init__(
        self, error: LoaderError, *, retry_after_seconds: float = 0, is_overloaded: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error  # raised once the budget is used up
        self.retry_after_seconds = retry_after_seconds
        self.is_overloaded = is_overloaded  # the server has too many requests, or too many of ours (429, 503)


class RetryBudget:
    """Counts consecutive failures of one piece of work, and waits between them: exponential, with jitter."""

    def __init__(self, retry_policy: RetryPolicy, attempts: int, closed: threading.Event) -> None:
        self._policy = retry_policy
        self._attempts = attempts
        self._closed = closed
        self._failures = 0

    def refill(self) -> None:
        """Forget the failures: bytes came."""
        self._failures = 0

    def spend(self, failure: TransientError) -> None:
        """Wait before the next attempt. Raises the failure's LoaderError when it was the last, and SourceClosed."""
        self._failures += 1
        raise_if_closed(self._closed)
        if self._failures >= self._attempts:
            raise failure.error
        delay = self._policy.first_delay_seconds * 2 ** (self._failures - 1)
        delay = min(delay, self._policy.max_delay_seconds)
        delay *= random.uniform(0.5, 1)  # noqa: S311 - spreads retries, guards nothing
        requested = min(failure.retry_after_seconds, self._policy.max_retry_after_seconds)
        if self._closed.wait(max(delay, requested)):
            raise SourceClosed


def retry_after_seconds(value: str | None) -> float:
    """Parse a Retry-After header (RFC 9110, 10.2.3): seconds, or a date. 0 when absent or unreadable."""
    if value is None:
        return 0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0
