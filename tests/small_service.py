"""The service with loaders of small segments and parts, and with less patience than people have."""

from __future__ import annotations

import os
from functools import partial

from supervision import SMALL

from importer import loader_process, service
from importer.cli import main
from importer.outcome import Retries
from importer.supervisor import Supervisor

# Twelve attempts that commit nothing take 40 s and more: a database that was killed is back by then.
RETRIES = Retries(attempts=12, first_delay_seconds=0.02)

setattr(service, "Supervisor", partial(Supervisor, command=SMALL, retries=RETRIES))  # noqa: B010

if seconds := os.environ.get("SMALL_SERVICE_SILENCE_SECONDS"):
    loader_process.SILENCE_SECONDS = int(seconds)

main()
