"""The service as a real child process, `importer serve`, and a client's view of its imports."""

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

Json = Any  # what a server sends: tests look into it, and fail where it is otherwise

ENDED = ("succeeded", "failed", "cancelled")

_numbers = itertools.count(1)


class LiveService:
    """One that runs until the end of `with`, on a free port, with a control DB of its own."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        environment: Mapping[str, str] | None = None,
        *,
        small: bool = False,
        limited: bool = False,
    ) -> None:
        """`small`: with loaders of which a test's file has many parts; `limited`: also with room for few clients."""
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
        """End it with SIGKILL, if it has not ended yet."""
        self.process.kill()
        self.process.wait()
        self.client.close()

    def _url(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        return next((event["url"] for event in self.events() if event["event"] == "service started"), None)

    def events(self) -> Iterator[Json]:
        """What it has logged so far, whole lines only."""
        for line in self.log.read_text().split("\n")[:-1]:
            if line.startswith("{"):
                yield json.loads(line)

    def submit(self, url: str, headers: Mapping[str, str] | None = None, **options: object) -> Json:
        """Submit an import; return it as the answer has it."""
        answer = self.client.post("/imports", json={"url": url, **options}, headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def get(self, import_id: str) -> Json:
        answer = self.client.get(f"/imports/{import_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def until_state(self, import_id: str, *states: str) -> Json:
        """Follow an import by long polls until it is in one of these states, or has ended."""
        return self._until(import_id, lambda found: found["state"] in states)

    def until_phase(self, import_id: str, phase: str) -> Json:
        """Follow an import by long polls until its loader is so far."""
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
        """Wait until there is no such import."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        answer = self.client.get(f"/imports/{import_id}")
        while answer.status_code == 200:
            assert answer.json()["state"] == "removing"
            assert time.monotonic() < deadline, answer.text
            answer = self.client.get(f"/imports/{import_id}", params={"wait": 30})
        assert answer.status_code == 404, answer.text

    def metric(self, name: str) -> float:
        """The value of a metric, with its labels as Prometheus writes them."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split(" ")[1])
        raise AssertionError(f"no metric {name}")


@contextmanager
def fresh_database(postgres: str, template: str = "template0") -> Generator[str]:
    """Yield the URL of a database of its own on a server, a copy of another."""
    name = f"service_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def assert_problem(answer: httpx.Response, status: int, code: str) -> Json:
    """Assert that an answer is this problem, as RFC 9457 and our document have it; return it."""
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
