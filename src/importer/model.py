"""An import as the control DB records it: what was asked for, where it stands, which moves are allowed. Pure."""

from __future__ import annotations

import datetime
import enum
from uuid import UUID

import msgspec

from loader.contract import Failure, Job, Phase, Progress, Receipt


class State(enum.StrEnum):
    """Where an import stands. `phase` tells more while it runs."""

    QUEUED = "queued"  # waits for a slot, or for the time of its next attempt
    RUNNING = "running"  # a loader is at it, or is about to be
    CANCELLING = "cancelling"  # cancel was asked for; staging may still be there
    SUCCEEDED = "succeeded"  # its rows are visible
    FAILED = "failed"  # ended without rows; `error` says why
    CANCELLED = "cancelled"  # ended without rows because that was asked for; the staging is gone
    REMOVING = "removing"  # its rows and its record are on their way out


# A failed attempt is followed by the next one after this long, or sooner. A time of the next attempt that is further away
# was written by a clock that was ahead.
MAX_RETRY_DELAY_SECONDS = 300.0

FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

# Each move, and what makes it. Every other one is refused by the store.
TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.QUEUED, State.RUNNING),  # a slot is free
        (State.QUEUED, State.QUEUED),  # retry, asked for: the next attempt at once
        (State.QUEUED, State.CANCELLED),  # cancel of what never ran, or left nothing
        (State.QUEUED, State.CANCELLING),  # cancel between two attempts: staging is to be removed
        (State.RUNNING, State.QUEUED),  # a retryable end, or the service stops
        (State.RUNNING, State.CANCELLING),  # cancel
        (State.RUNNING, State.SUCCEEDED),  # published
        (State.RUNNING, State.FAILED),  # an end that no retry can change
        (State.CANCELLING, State.CANCELLED),  # rolled back
        (State.CANCELLING, State.SUCCEEDED),  # the publish was faster: the ledger decides
        (State.CANCELLING, State.FAILED),  # it had failed by itself
        (State.FAILED, State.QUEUED),  # retry, asked for
        (
            State.FAILED,
            State.SUCCEEDED,
        ),  # the ledger, which could not be asked at its end, has it as published
        (State.CANCELLED, State.QUEUED),  # retry, asked for
        (State.SUCCEEDED, State.REMOVING),  # removal
        (State.FAILED, State.REMOVING),
        (State.CANCELLED, State.REMOVING),
    }
)


def can_transition(origin: State, target: State) -> bool:
    """Whether an import in `origin` may be put into `target`."""
    return (origin, target) in TRANSITIONS


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One loader process that has ended, or runs."""

    number: int  # from 1
    started_at: datetime.datetime
    finished_at: datetime.datetime | None = None
    exit_code: int | None = None  # negative: the signal that killed it; None: it runs, or nobody saw it end
    error: Failure | None = None
    log: str = ""  # the end of its stderr


class AttemptResult(msgspec.Struct, frozen=True):
    """How an attempt ended, and what becomes of its import.

    QUEUED with an error: it failed, and the next one is at `not_before`. QUEUED without: it was suspended. SUCCEEDED needs
    a receipt, FAILED an error.
    """

    state: State  # of the import: QUEUED, or a finished one
    exit_code: int | None = None
    error: Failure | None = None
    log: str = ""
    receipt: Receipt | None = None
    not_before: datetime.datetime | None = None
    is_retried: bool = True  # QUEUED with an error: it counts as one of the import's retries
    keeps_staging: bool = False  # FAILED: what is committed is kept for a retry


class Import(msgspec.Struct, frozen=True):
    """A row of the control DB. Times are UTC."""

    id: UUID
    sequence: int  # order of submission: of the queue and of listings
    job: Job  # with the whole URL: never shown as it is
    state: State
    version: int  # grows with each change; the id of an event
    phase: Phase | None
    progress: Progress | None
    attempt_count: int  # loaders that were started for it
    retry_count: int  # of them, those that failed and were followed by another, since somebody asked for it
    locked_count: int  # attempts in a row that ended as table_locked
    keeps_staging: bool  # it failed, and what it has committed is kept for a retry
    created_at: datetime.datetime
    started_at: datetime.datetime | None  # of the first attempt
    finished_at: datetime.datetime | None
    not_before: datetime.datetime | None  # of the next attempt, while queued
    error: Failure | None  # why it failed, waits for its next attempt, or can't be cleaned up yet
    receipt: Receipt | None
