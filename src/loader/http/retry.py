"""How long a server is waited for: time limits, the floor under its throughput, and the budget of retries."""

from __future__ import annotations

import email.utils
import random
import threading
import time

import msgspec

from loader.cancellation import SourceClosed
from loader.errors import LoaderError


class RetryPolicy(msgspec.Struct, frozen=True):
    """The limits of one source. The defaults are the ones to use; tests have less time."""

    # Per address of a name. Lets the third retransmission of a lost SYN (1, 3, 7 s) still succeed.
    connect_seconds: float = 10
    # Without any byte. Longer than a server's longest pause under load, shorter than a person's patience.
    silence_seconds: float = 30
    # A server that trickles keeps the silence limit quiet for ever: below this rate, over this much time spent
    # waiting, is a failure too. No link in use is that slow; 300 GB would take ten years.
    low_speed_limit_bytes_per_second: float = 1024
    low_speed_window_seconds: float = 30
    # Failed attempts in a row without progress: one to two minutes of waits, which a server's restart fits into.
    attempts: int = 10
    # The first look has a person waiting for "no such host": about 3 s.
    probe_attempts: int = 4
    first_delay_seconds: float = 0.5
    longest_delay_seconds: float = 30
    # A server may ask for an hour; better to end, as retryable, than to look alive for that long.
    longest_retry_after_seconds: float = 120


class TransientError(Exception):
    """One request went wrong in a way that may pass."""

    def __init__(
        self, error: LoaderError, *, retry_after_seconds: float = 0, is_turned_away: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error  # what it is called once the budget is used up
        self.retry_after_seconds = retry_after_seconds
        self.is_turned_away = is_turned_away  # the server has too much to do, or thinks that we ask too much


class RetryBudget:
    """Counts the failures in a row of one piece of work, and waits between them: exponential, with jitter."""

    def __init__(self, retry_policy: RetryPolicy, attempts: int, closed: threading.Event) -> None:
        self._patience = retry_policy
        self._attempts = attempts
        self._closed = closed
        self._failures = 0

    def refill(self) -> None:
        """Bytes came: the next failure is the first again."""
        self._failures = 0

    def spend(self, failure: TransientError) -> None:
        """Wait before the next attempt. Raises the failure's LoaderError when it was the last, and SourceClosed."""
        self._failures += 1
        if self._closed.is_set():
            raise SourceClosed
        if self._failures >= self._attempts:
            raise failure.error
        delay = self._patience.first_delay_seconds * 2 ** (self._failures - 1)
        delay = min(delay, self._patience.longest_delay_seconds)
        delay *= random.uniform(0.5, 1)  # noqa: S311 - spreads retries, guards nothing
        asked = min(failure.retry_after_seconds, self._patience.longest_retry_after_seconds)
        if self._closed.wait(max(delay, asked)):
            raise SourceClosed


def retry_after_seconds(value: str | None) -> float:
    """Read a Retry-After header (RFC 9110, 10.2.3): seconds, or a date. 0 when absent or unreadable."""
    if value is None:
        return 0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0
