"""Starts loader processes with the service's settings and a small part of its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from importer.supervisor.limits import LIMITS, SupervisorLimits
from importer.supervisor.process import LoaderProcess
from loader.contract import Job

# -P: the service's working directory is not searched for modules.
LOADER = (sys.executable, "-P", "-m", "loader")

# What a loader needs of the service's environment: programs, folders, language, libraries, and libpq's settings.
# Neither proxies nor credentials of anything else.
_INHERITED = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"})
_INHERITED_PREFIXES = ("LC_", "NUMBA_", "PG", "PYTHON", "SSL_CERT_", "XDG_")


class Loaders(msgspec.Struct, frozen=True):
    """The settings of all loader processes."""

    database_url: str
    workers: int | None = None
    allowed_hosts: Sequence[str] = ()
    command: Sequence[str] = LOADER
    limits: SupervisorLimits = LIMITS
    read_timeout_seconds: int | None = None

    def run(self, job: Job) -> LoaderProcess:
        """Start a loader for a job. Its stdin stays open: if the service is killed, the loader suspends."""
        job = msgspec.structs.replace(
            job,
            database_url=self.database_url,
            workers=job.workers or self.workers,
            allowed_hosts=list(self.allowed_hosts),
            read_timeout_seconds=self.read_timeout_seconds,
        )
        return LoaderProcess(
            [*self.command, "run", "--progress", "json"],
            loader_environment(os.environ),
            job=job,
            database_url=self.database_url,
            limits=self.limits,
        )

    def drop(self, import_id: UUID, *, published: bool) -> LoaderProcess:
        """Start the removal of an import's staging; `published`: of its visible rows, too."""
        return LoaderProcess(
            [*self.command, "drop", str(import_id), *(["--published"] if published else [])],
            loader_environment(os.environ) | {"DATABASE_URL": self.database_url},
            job=None,
            database_url=self.database_url,
            limits=self.limits,
        )


def loader_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a loader inherits."""
    return {
        name: value
        for name, value in environment.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
