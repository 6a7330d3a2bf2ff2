"""An import as the control DB records it: its job, its state, its attempts, and the allowed transitions. Pure."""

from __future__ import annotations

import datetime
import enum
from uuid import UUID

import msgspec

from loader.contract import Failure, Job, Phase, Progress, Receipt


class State(enum.StrEnum):
    """The state of an import. While it runs, `phase` says more."""

    QUEUED = "queued"  # waits for a slot, or until its next attempt is due
    RUNNING = "running"  # has a loader, or is about to get one
    CANCELLING = "cancelling"  # cancel was requested; its staging may still exist
    SUCCEEDED = "succeeded"  # its rows are published
    FAILED = "failed"  # finished without rows; `error` has the reason
    CANCELLED = "cancelled"  # finished without rows, on request; its staging is removed
    REMOVING = "removing"  # its rows and its record are being removed


# The longest delay between a failed attempt and the next one. A stored time that is further in the future was written by a
# clock that was ahead.
MAX_RETRY_DELAY_SECONDS = 300.0

FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

# Each transition, and its cause. The store refuses all others.
TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.QUEUED, State.RUNNING),  # a slot is free
        (State.QUEUED, State.QUEUED),  # retry request: the next attempt at once
        (State.QUEUED, State.CANCELLED),  # cancel before the first attempt
        (State.QUEUED, State.CANCELLING),  # cancel between two attempts: the staging must be removed
        (State.RUNNING, State.QUEUED),  # a retryable failure, or the service stops
        (State.RUNNING, State.CANCELLING),  # cancel
        (State.RUNNING, State.SUCCEEDED),  # published
        (State.RUNNING, State.FAILED),  # a failure that is final
        (State.CANCELLING, State.CANCELLED),  # rolled back
        (State.CANCELLING, State.SUCCEEDED),  # the publish was faster than the cancel
        (State.CANCELLING, State.FAILED),  # it failed before the cancel took effect
        (State.FAILED, State.QUEUED),  # retry request
        # The ledger, which was unreachable when the attempt ended, has the import as published.
        (State.FAILED, State.SUCCEEDED),
        (State.CANCELLED, State.QUEUED),  # retry request
        (State.SUCCEEDED, State.REMOVING),  # removal request
        (State.FAILED, State.REMOVING),
        (State.CANCELLED, State.REMOVING),
        # A failed import was to be forgotten, and the ledger has it as published: its rows are kept.
        (State.REMOVING, State.SUCCEEDED),
    }
)


def can_transition(origin: State, target: State) -> bool:
    """Whether an import may go from `origin` to `target`."""
    return (origin, target) in TRANSITIONS


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One loader process, running or ended."""

    number: int  # from 1
    started_at: datetime.datetime
    finished_at: datetime.datetime | None = None
    exit_code: int | None = (
        None  # negative: the signal that killed it; None: it runs, or the service ended first
    )
    error: Failure | None = None


class JobChanges(msgspec.Struct, frozen=True):
    """What a retry changes in a job. None: no change."""

    source: str | None = None
    max_rejects: str | None = None
    workers: int | None = None

    def fields(self) -> dict[str, object]:
        """Return the fields that change."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}

    def apply(self, job: Job) -> Job:
        """Return the changed job."""
        return msgspec.structs.replace(job, **self.fields())


class AttemptResult(msgspec.Struct, frozen=True):
    """How an attempt ended, and the next state of its import.

    QUEUED with an error: the attempt failed, and the next one is due at `not_before`. QUEUED without: it was suspended.
    SUCCEEDED needs a receipt, FAILED an error.
    """

    state: State  # QUEUED, or a finished one
    exit_code: int | None = None
    error: Failure | None = None
    log: str = ""  # the end of the loader's stderr
    receipt: Receipt | None = None
    not_before: datetime.datetime | None = None
    is_retried: bool = True  # QUEUED with an error: it counts towards AttemptRetryPolicy.attempts
    keeps_staging: bool = False  # FAILED: the staging is kept for a retry


class Import(msgspec.Struct, frozen=True):
    """A row of the control DB. Times are UTC."""

    id: UUID
    sequence: int  # order of submission: of the queue and of listings
    job: Job  # its URL contains secrets: never shown as is
    label: str | None  # the client's name for it
    state: State
    version: int  # incremented by each change; the id of an event
    phase: Phase | None
    progress: Progress | None
    attempt_count: int  # loaders started for it
    retry_count: int  # failed attempts since the submission or the last retry request
    locked_count: int  # consecutive attempts that failed with table_locked
    keeps_staging: bool  # it failed, and its staging is kept for a retry
    created_at: datetime.datetime
    started_at: datetime.datetime | None  # of the first attempt
    series_started_at: datetime.datetime | None  # of the first one since the retry of an ended import
    finished_at: datetime.datetime | None
    not_before: datetime.datetime | None  # of the next attempt, while queued
    error: Failure | None  # why it failed, waits, or can't be cleaned up yet
    receipt: Receipt | None
