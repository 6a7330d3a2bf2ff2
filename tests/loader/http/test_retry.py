from __future__ import annotations

import email.utils
import threading
import time

import pytest

from loader.cancellation import SourceClosed
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.retry import RetryBudget, TransientError, retry_after_seconds
from loader.limits import RetryPolicy

ERROR = LoaderError(FailureCode.SOURCE_UNREACHABLE, "it is down", "wait")
HASTY = RetryPolicy(first_delay_seconds=0.001, max_delay_seconds=0.002)


def test_the_last_failure_of_a_budget_is_raised() -> None:
    budget = RetryBudget(HASTY, 3, threading.Event())
    budget.spend(TransientError(ERROR))
    budget.spend(TransientError(ERROR))
    budget.refill()
    budget.spend(TransientError(ERROR))
    budget.spend(TransientError(ERROR))
    with pytest.raises(LoaderError) as caught:
        budget.spend(TransientError(ERROR))
    assert caught.value is ERROR


def test_a_retry_after_of_the_server_sets_the_wait() -> None:
    began = time.monotonic()
    RetryBudget(HASTY, 2, threading.Event()).spend(TransientError(ERROR, retry_after_seconds=0.2))
    assert time.monotonic() - began >= 0.2


def test_the_server_can_not_ask_for_more_than_the_limit() -> None:
    retry_policy = RetryPolicy(first_delay_seconds=0.001, max_retry_after_seconds=0.002)
    RetryBudget(retry_policy, 2, threading.Event()).spend(TransientError(ERROR, retry_after_seconds=1e9))


@pytest.mark.parametrize(
    "failure",
    [TransientError(ERROR, retry_after_seconds=0.001), TransientError(ERROR, is_pending=True)],
    ids=["Retry-After", "pending"],
)
def test_a_wait_that_the_server_requests_is_no_failed_attempt(failure: TransientError) -> None:
    budget = RetryBudget(HASTY, 2, threading.Event())
    for _ in range(10):
        budget.spend(failure)
    budget.spend(TransientError(ERROR))
    with pytest.raises(LoaderError):
        budget.spend(TransientError(ERROR))


def test_the_waits_that_the_server_requests_have_a_limit_in_total() -> None:
    retry_policy = RetryPolicy(
        first_delay_seconds=0.001, max_retry_after_seconds=0.01, max_requested_wait_seconds=0.025
    )
    budget = RetryBudget(retry_policy, 2, threading.Event())
    failure = TransientError(ERROR, retry_after_seconds=60)
    for _ in range(3):
        budget.spend(failure)
    with pytest.raises(LoaderError):
        budget.spend(failure)
    budget.refill()
    budget.spend(failure)


def test_a_closed_source_does_not_wait() -> None:
    closed = threading.Event()
    closed.set()
    with pytest.raises(SourceClosed):
        RetryBudget(RetryPolicy(), 2, closed).spend(TransientError(ERROR, retry_after_seconds=1e9))


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_seconds("120") == 120
    in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert 3500 < retry_after_seconds(in_an_hour) <= 3600
    assert retry_after_seconds("Mon, 01 Jan 2024 00:00:00 GMT") == 0


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "1.5", "Mon, 99 Jan 2024 00:00:00 GMT", "²"])
def test_a_retry_after_that_makes_no_sense_is_none(value: str | None) -> None:
    assert retry_after_seconds(value) == 0
