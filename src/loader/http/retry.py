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
        self,
        error: LoaderError,
        *,
        retry_after_seconds: float = 0,
        is_overloaded: bool = False,
        is_pending: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error  # raised once the budget is used up
        self.retry_after_seconds = retry_after_seconds
        self.is_overloaded = is_overloaded  # the server has too many requests, or too many of ours (429, 503)
        self.is_pending = is_pending  # the server is still making the file (202)

    @property
    def requests_wait(self) -> bool:
        """Whether the server works, and asks for the same request later."""
        return self.is_pending or self.retry_after_seconds > 0


class RetryBudget:
    """Counts consecutive failures of one piece of work, and waits between them: exponential, with jitter.

    Waits that the server requests have a limit of their own, in seconds.
    """

    def __init__(self, retry_policy: RetryPolicy, attempts: int, closed: threading.Event) -> None:
        self._policy = retry_policy
        self._attempts = attempts
        self._closed = closed
        self.refill()

    def refill(self) -> None:
        """Forget the failures: bytes came."""
        self._failures = 0
        self._requested_wait_seconds = 0.0
        self._delay_seconds = self._policy.first_delay_seconds

    def spend(self, failure: TransientError) -> None:
        """Wait before the next attempt. Raises the failure's LoaderError when it was the last, and SourceClosed."""
        raise_if_closed(self._closed)
        if failure.requests_wait:
            is_last = self._requested_wait_seconds >= self._policy.max_requested_wait_seconds
        else:
            self._failures += 1
            is_last = self._failures >= self._attempts
        if is_last:
            raise failure.error
        delay = self._delay_seconds * random.uniform(0.5, 1)  # noqa: S311 - spreads retries, guards nothing
        self._delay_seconds = min(2 * self._delay_seconds, self._policy.max_delay_seconds)
        requested = min(failure.retry_after_seconds, self._policy.max_retry_after_seconds)
        if failure.requests_wait:
            self._requested_wait_seconds += max(delay, requested)
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
