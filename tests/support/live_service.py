"""The service as a child process, `importer serve`, with an HTTP client for its API."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg

from tests.support.loader_process import DEADLINE_SECONDS, wait_for
from tests.support.paths import PROGRAMS

Json = Any  # a server's response: a test fails where it is not as expected

ENDED = ("succeeded", "failed", "cancelled")

_numbers = itertools.count(1)


class LiveService:
    """A service that runs until the end of `with`, on a free port, with its own control DB."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        environment: Mapping[str, str] | None = None,
        *,
        small: bool = False,
        limited: bool = False,
    ) -> None:
        """`small`: its loaders make many parts of a test's file; `limited`: it also has room for few clients only."""
        driver = "small_service.py" if small else "limited_service.py" if limited else None
        program = ["-m", "importer"] if driver is None else [str(PROGRAMS / driver)]
        self.folder = folder
        self.database_url = database_url
        self.log = folder / f"service-{next(_numbers)}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "serve"],
                env={
                    **os.environ,
                    "IMPORTER_DATA_DIR": str(folder),
                    "IMPORTER_PORT": "0",
                    "IMPORTER_ALLOWED_HOSTS": "localhost",
                    "IMPORTER_WORKERS": "1",
                    "DATABASE_URL": database_url,
                    **(environment or {}),
                },
                stdout=log,
                stderr=log,
            )
        try:
            self.url = wait_for("the service", self._url)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.client = httpx.Client(base_url=self.url, timeout=DEADLINE_SECONDS, trust_env=False)

    def __enter__(self) -> LiveService:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.terminate()
        try:
            assert self.process.wait(DEADLINE_SECONDS) == 0, self.log.read_text()
        finally:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.process.kill()
        self.process.wait()
        self.client.close()

    def _url(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        return next((event["url"] for event in self.events() if event["event"] == "service started"), None)

    def events(self) -> Iterator[Json]:
        """Yield the events in its log so far, whole lines only."""
        for line in self.log.read_text().split("\n")[:-1]:
            if line.startswith("{"):
                yield json.loads(line)

    def submit(self, url: str, headers: Mapping[str, str] | None = None, **options: object) -> Json:
        """Submit an import; return the response."""
        answer = self.client.post("/imports", json={"url": url, **options}, headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def get(self, import_id: str) -> Json:
        answer = self.client.get(f"/imports/{import_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def until_state(self, import_id: str, *states: str) -> Json:
        """Wait by long polls until an import is in one of these states; fail if it ends in another."""
        return self._until(import_id, lambda found: found["state"] in states)

    def until_phase(self, import_id: str, phase: str) -> Json:
        """Wait by long polls until an import is in this phase; fail if it ends before."""
        return self._until(import_id, lambda found: found["phase"] == phase)

    def _until(self, import_id: str, condition: Callable[[Json], bool]) -> Json:
        found = self.get(import_id)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition(found):
            assert found["state"] not in ENDED, found
            assert time.monotonic() < deadline, found
            answer = self.client.get(f"/imports/{import_id}", params={"wait": 30})
            assert answer.status_code == 200, answer.text
            found = answer.json()
        return found

    def until_gone(self, import_id: str) -> None:
        """Wait until the import no longer exists."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        answer = self.client.get(f"/imports/{import_id}")
        while answer.status_code == 200:
            assert answer.json()["state"] == "removing"
            assert time.monotonic() < deadline, answer.text
            answer = self.client.get(f"/imports/{import_id}", params={"wait": 30})
        assert answer.status_code == 404, answer.text

    def metric(self, name: str) -> float:
        """Return the value of a metric; `name`: with its labels in Prometheus' format."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split(" ")[1])
        raise AssertionError(f"no metric {name}")


@contextmanager
def fresh_database(postgres: str, template: str = "template0") -> Generator[str]:
    """Yield the URL of a new database, a copy of `template`."""
    name = f"service_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def assert_problem(answer: httpx.Response, status: int, code: str) -> Json:
    """Assert that a response is this problem, as in RFC 9457 and the OpenAPI document; return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"/schema/problems#{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["hint"]
    assert ("retry-after" in answer.headers) == (status == 503)
    return problem
