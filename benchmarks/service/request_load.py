"""Many requests at one service, over connections that stay open: on a schedule, or each as soon as one is answered.

A thread holds a connection. `http.client` costs 0.2 ms of CPU a request, a tenth of what larger clients take: on two
cores that all share, what the client takes is missing elsewhere.
"""

from __future__ import annotations

import http.client
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

# At 50 requests/s a connection's turn comes every 0.32 s: a slow answer delays no other one.
_SCHEDULED_CONNECTIONS = 16
# A program that submits many files has some requests under way at a time.
_SUBMITTING_CONNECTIONS = 8
_TIMEOUT_SECONDS = 60

R = TypeVar("R")


class Answer(msgspec.Struct, frozen=True):
    """When an answer was there, after the time at which its request was due."""

    seconds: float  # until the last byte was read
    sent_seconds: float  # until the client sent the request: the part of it that is the client's own


def get_on_schedule(url: str, paths: Sequence[str], *, a_second: float, seconds: float) -> list[Answer]:
    """GET the paths in turn, so many requests a second; each is timed from when it was due, so that none hides others.

    Raises SystemExit for an answer other than 200.
    """
    count = max(round(seconds * a_second), 1)
    began = time.perf_counter() + 0.1  # when all threads are up

    def take_turns(connection: http.client.HTTPConnection, first: int) -> list[Answer]:
        answers: list[Answer] = []
        for number in range(first, count, _SCHEDULED_CONNECTIONS):
            due = began + number / a_second
            time.sleep(max(due - time.perf_counter(), 0))  # each request has its time
            sent = time.perf_counter()
            _ask(connection, 200, "GET", paths[number % len(paths)])
            answers.append(Answer(time.perf_counter() - due, sent - due))
        return answers

    return _in_threads(url, take_turns, _SCHEDULED_CONNECTIONS)


def submit_many(url: str, body: bytes, count: int) -> float:
    """POST so many imports; return the seconds from the first request to the last answer.

    Raises SystemExit for an answer other than 202.
    """

    def submit(connection: http.client.HTTPConnection, first: int) -> list[None]:
        headers = {"Content-Type": "application/json"}
        for _ in range(first, count, _SUBMITTING_CONNECTIONS):
            _ask(connection, 202, "POST", "/imports", body, headers)
        return []

    began = time.perf_counter()
    _in_threads(url, submit, _SUBMITTING_CONNECTIONS)
    return time.perf_counter() - began


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that is not exceeded by so many percent of all (nearest rank)."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def _in_threads(
    url: str, work: Callable[[http.client.HTTPConnection, int], list[R]], connections: int
) -> list[R]:
    """Let each thread work with a connection of its own and its number, from 0; return all that they return."""

    def one(number: int) -> list[R]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT_SECONDS)
        try:
            return work(connection, number)
        finally:
            connection.close()

    with ThreadPoolExecutor(connections) as threads:
        return [each for found in threads.map(one, range(connections)) for each in found]


def _ask(
    connection: http.client.HTTPConnection,
    expected: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> None:
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != expected:
        sys.exit(f"{method} {path} was answered with {answer.status}, not {expected}: {content.decode()}")
