"""The service with loaders of small segments and parts, and with short delays between attempts."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from importer.cli.main import main
from importer.server import lifespan
from importer.supervisor.limits import LIMITS, SupervisorLimits
from importer.supervisor.outcome import AttemptRetryPolicy
from importer.supervisor.supervisor import Supervisor

SMALL = (sys.executable, str(Path(__file__).with_name("small_loader.py")))

# Twelve attempts without a commit take at least 40 s: a killed database has restarted by then.
RETRY_POLICY = AttemptRetryPolicy(attempts=12, first_delay_seconds=0.02)

limits = LIMITS
if seconds := os.environ.get("SMALL_SERVICE_SILENCE_SECONDS"):
    limits = SupervisorLimits(silence_seconds=int(seconds))

setattr(lifespan, "Supervisor", partial(Supervisor, command=SMALL, retry_policy=RETRY_POLICY, limits=limits))  # noqa: B010

main()
