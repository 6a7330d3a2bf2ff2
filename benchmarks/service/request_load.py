"""Sends many requests over persistent connections, one per thread: on a schedule, or as fast as the responses come.

It uses `http.client`, which costs 0.2 ms of CPU per request, a tenth of larger clients: the client shares its cores
with the service.
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

# At 50 requests/s each connection sends one every 0.32 s, so that a slow response delays no other request.
_SCHEDULED_CONNECTIONS = 16
# As many as a program that submits many files would have in flight.
_SUBMITTING_CONNECTIONS = 8
_TIMEOUT_SECONDS = 60

R = TypeVar("R")


class Response(msgspec.Struct, frozen=True):
    """Latencies from the time at which the request was due."""

    seconds: float  # until the last byte was read
    sent_seconds: float  # until the client sent the request: the client's own share


def get_on_schedule(url: str, paths: Sequence[str], *, per_second: float, seconds: float) -> list[Response]:
    """GET the paths in turn. Each is timed from when it was due, so that a slow one can't hide others.

    Raises SystemExit for a status other than 200.
    """
    count = max(round(seconds * per_second), 1)
    start = time.perf_counter() + 0.1  # by then all threads run

    def get_in_turn(connection: http.client.HTTPConnection, first: int) -> list[Response]:
        responses: list[Response] = []
        for number in range(first, count, _SCHEDULED_CONNECTIONS):
            due = start + number / per_second
            time.sleep(max(due - time.perf_counter(), 0))  # until the request is due
            sent = time.perf_counter()
            _send(connection, 200, "GET", paths[number % len(paths)])
            responses.append(Response(time.perf_counter() - due, sent - due))
        return responses

    return _in_threads(url, get_in_turn, _SCHEDULED_CONNECTIONS)


def submit_many(url: str, body: bytes, count: int) -> float:
    """POST that many imports; return the seconds from the first request to the last response.

    Raises SystemExit for a status other than 202.
    """

    def submit(connection: http.client.HTTPConnection, first: int) -> list[None]:
        headers = {"Content-Type": "application/json"}
        for _ in range(first, count, _SUBMITTING_CONNECTIONS):
            _send(connection, 202, "POST", "/imports", body, headers)
        return []

    started_at = time.perf_counter()
    _in_threads(url, submit, _SUBMITTING_CONNECTIONS)
    return time.perf_counter() - started_at


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of the values, by nearest rank."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def _in_threads(
    url: str, work: Callable[[http.client.HTTPConnection, int], list[R]], connections: int
) -> list[R]:
    """Run `work` in one thread per connection, with its number from 0; return all results."""

    def run(number: int) -> list[R]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT_SECONDS)
        try:
            return work(connection, number)
        finally:
            connection.close()

    with ThreadPoolExecutor(connections) as threads:
        return [each for found in threads.map(run, range(connections)) for each in found]


def _send(
    connection: http.client.HTTPConnection,
    expected: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> None:
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    if response.status != expected:
        sys.exit(f"{method} {path} returned {response.status}, not {expected}: {content.decode()}")
