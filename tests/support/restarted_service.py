"""A service that ends repeatedly, and the client that restarts it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from tests.support.live_service import LiveService
from tests.support.loader_process import assert_nothing_is_left, query, wait_for

R = TypeVar("R")


class InternalError(Exception):
    """A client got status 500."""


def refuse_internal_error(answer: httpx.Response) -> None:
    if answer.status_code == 500:
        raise InternalError


class RestartedService:
    """One control DB and its successive services."""

    def __init__(self, folder: Path, database_url: str, armed: str | None = None) -> None:
        """`armed`: the failpoint of the first service."""
        self.starts = 0
        self._folder = folder
        self._database_url = database_url
        self._armed = armed
        # a failpoint's error may reach a client, which then repeats its request
        self._internal_errors_left = 1 if armed and armed.startswith("error") else 0
        self._service: LiveService | None = None

    def running(self) -> LiveService:
        """Return the running service, started if necessary."""
        while self._service is None:
            armed, self._armed = self._armed, None
            environment = {} if armed is None else {"IMPORTER_FAILPOINT": armed}
            self.starts += 1
            try:
                self._service = LiveService(self._folder, self._database_url, environment, small=True)
                self._service.client.event_hooks = {"response": [refuse_internal_error]}
            except AssertionError:
                if armed is None:
                    raise
        return self._service

    def ask(self, action: Callable[[LiveService], R]) -> R:
        """Return the result of an action, repeated with the next service if one ends in the meantime."""
        while True:
            service = self.running()
            try:
                return action(service)
            except InternalError:
                if not self._internal_errors_left:
                    raise
                self._internal_errors_left -= 1
            except httpx.TransportError:
                wait_for("the service's end", lambda service=service: service.process.poll() is not None)
                self.kill()

    def kill(self) -> None:
        """Kill the running service, if any."""
        if self._service is not None:
            self._service.kill()
            self._service = None

    def stop(self) -> None:
        """Stop the running service in order, if any."""
        if self._service is not None:
            self._service.process.terminate()
            wait_for("the service's end", lambda: self._service and self._service.process.poll() is not None)
            self.kill()

    def children(self) -> list[psutil.Process]:
        """The loaders of the running service."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._service is not None:
                return psutil.Process(self._service.process.pid).children()
        return []


@contextmanager
def restarted_service(
    folder: Path, database_url: str, armed: str | None = None
) -> Generator[RestartedService]:
    """Yield a service; afterwards none of its processes runs."""
    service = RestartedService(folder, database_url, armed)
    try:
        yield service
    finally:
        loaders = service.children()
        service.kill()
        _, alive = psutil.wait_procs(loaders, timeout=60)  # they suspend at the end of their stdin
        assert alive == []


def assert_all_agree(folder: Path, database_url: str) -> None:
    """Check that control DB, ledger and trips agree about imports that have all finished, and that nothing is left."""
    assert_nothing_is_left(database_url)
    with contextlib.closing(sqlite3.connect(folder / "importer.sqlite")) as connection:
        states = dict(connection.execute("SELECT id, state FROM import").fetchall())
    assert set(states.values()) <= {"succeeded", "failed", "cancelled"}
    published = query(
        database_url, "SELECT id::text, import_key, receipt FROM loader.import ORDER BY import_key"
    )
    assert {name for name, _, _ in published} == {
        name for name, state in states.items() if state == "succeeded"
    }
    told = "SELECT import_key, (receipt->>'rows_published')::bigint FROM loader.import ORDER BY import_key"
    found = "SELECT import_key, count(*) FROM trips GROUP BY import_key ORDER BY import_key"
    assert query(database_url, told) == query(database_url, found)
