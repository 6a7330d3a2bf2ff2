"""An embedded PostgreSQL for one test, and ways to crash it."""

from __future__ import annotations

import contextlib
import random
import signal
from pathlib import Path

import psutil
import psycopg

from tests.support.loader_process import query

CRASHES = ("immediate shutdown", "postmaster", "backend")


class CrashingPostgres:
    """An embedded server with a user, so that its guardian restarts it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def crash(self, what: str, chance: random.Random) -> None:
        """Kill the server, or one backend, after which the server ends all others and recovers."""
        postmaster = self.postmaster()
        match what:
            case "immediate shutdown":
                postmaster.send_signal(signal.SIGQUIT)
            case "postmaster":
                postmaster.kill()
            case _:
                with contextlib.suppress(psutil.NoSuchProcess):
                    chance.choice(postmaster.children()).kill()

    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.folder / "postgres" / "postmaster.pid").read_text().split("\n")[0]))

    def responds(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            return query(self.url, "SELECT 1") == [(1,)]
        return False
