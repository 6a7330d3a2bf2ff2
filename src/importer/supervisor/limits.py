"""The supervisor's time limits."""

from __future__ import annotations

import msgspec


class SupervisorLimits(msgspec.Struct, frozen=True):
    """How long to wait for loaders. Tests use shorter times."""

    # A loader reports twice a second in every phase. After this much silence it hangs, or was stopped by SIGSTOP; on a
    # machine that swaps it is silent for some seconds.
    silence_seconds: int = 60
    # A loader that reports the same numbers for this long hangs, too. No wait of a loader is longer: ten minutes for locks
    # on trips (limits.py of the loader), half an hour for the first blocks over a link with 40 kB/s.
    stall_seconds: int = 1800
    # The removal of 300 GB takes two minutes, and each wait for readers ten (limits.py of the loader). One that takes longer
    # hangs; the next one removes the rest.
    drop_seconds: float = 3600.0
    # Between two reconciliations if the first failed, or left staging: the database may be back.
    reconcile_retry_seconds: float = 30.0


LIMITS = SupervisorLimits()
