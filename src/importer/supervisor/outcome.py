"""What becomes of an import when its loader has ended. Pure: what happened goes in, the next state comes out.

The last message is the loader's own word, and the ledger knows where there is none. The exit code alone decides nothing
but how a failure without a last message is called.
"""

from __future__ import annotations

import enum
import signal
from typing import Literal

import msgspec

from importer.model import MAX_RETRY_DELAY_SECONDS, State
from loader.contract import FAILURE_KINDS, ExitCode, Failed, Failure, FailureCode, Published, Receipt
from loader.errors import LoaderError


class StopIntent(enum.Enum):
    """What the loader was told before it ended."""

    NOTHING = enum.auto()
    CANCEL = enum.auto()
    SUSPEND = enum.auto()  # the service stops


class LoaderExit(msgspec.Struct, frozen=True):
    """How a process ended, and what it left to read."""

    exit_code: int | None  # negative: the signal that killed it; None: it could not be started
    last: Published | Failed | None  # None: it had no time to say anything
    log: str  # the end of its stderr
    was_silent: bool = False  # so long that it was taken for hung, and killed
    was_stalled: bool = False  # it reported, but the same for so long that it was taken for hung, and killed


class Staged(msgspec.Struct, frozen=True):
    """The ledger has the import, and it is not published."""

    committed_bytes: int  # decompressed, of all its committed blocks


# What the ledger says of an import: published, not published, nothing.
LedgerState = Receipt | Staged | Literal["absent"]
# The same, or that it was not, or could not be asked.
Known = LedgerState | Literal["unknown"]


class RetryPolicy(msgspec.Struct, frozen=True):
    """When a retryable failure is the last one. The defaults are the ones to use; tests have less time."""

    # Attempts in a row that committed nothing. With the delays below they take from four to nine minutes: a database has
    # restarted or failed over by then, and a person who waits for an answer is still there.
    attempts: int = 10
    first_delay_seconds: float = 1  # doubled each time
    # Attempts in a row that others' locks on trips ended. A loader waits ten minutes for them (limits.py): a day.
    locked_attempts: int = 144

    def delay_seconds(self, fruitless: int) -> float:
        """Return how long to wait after a failure that so many fruitless ones came before."""
        return min(self.first_delay_seconds * 2.0**fruitless, MAX_RETRY_DELAY_SECONDS)


RETRIES = RetryPolicy()


# Of an attempt that nobody saw the end of. It says nothing about the import, but somebody should know.
SERVICE_ENDED = LoaderError(
    FailureCode.SUSPENDED,
    "The service ended during this attempt, and was not stopped in order.",
    "The next attempt goes on from what is committed. If this happens again and again, see the service's log and exit code,"
    " and whether the machine is out of memory.",
).failure


class Outcome(msgspec.Struct, frozen=True):
    """Where the import goes."""

    state: State  # CANCELLING: its staging is to be dropped first
    error: Failure | None = None  # of the attempt
    receipt: Receipt | None = None  # with SUCCEEDED
    retry_after_seconds: float = 0  # with QUEUED
    is_retried: bool = True  # with QUEUED and an error: it counts as one of RetryPolicy.attempts


# Ends that somebody's signal brought about: ours, or one that we know nothing of.
_SIGNALLED = frozenset({FailureCode.TERMINATED, FailureCode.INTERRUPTED})

# A retry of these needs another URL.
_NEEDS_NEW_URL = frozenset(
    {FailureCode.SOURCE_FORBIDDEN, FailureCode.SOURCE_NOT_FOUND, FailureCode.SOURCE_CHANGED}
)

# What an exit code without a last message can only mean. All others are a defect, in the loader or on its machine.
_CODES = {
    ExitCode.USAGE: FailureCode.USAGE,  # the job was not understood
    ExitCode.SUSPENDED: FailureCode.SUSPENDED,
    ExitCode.INTERRUPTED: FailureCode.INTERRUPTED,
    ExitCode.TERMINATED: FailureCode.TERMINATED,
}


def needs_ledger(end: LoaderExit) -> bool:
    """Whether the ledger has to be asked before deciding: what the loader said leaves something open."""
    return end.last is None or (isinstance(end.last, Failed) and end.last.staging != "none")


def keeps_staging(end: LoaderExit) -> bool:
    """Whether what the loader had committed is to stay for a retry, should the import have failed.

    The loader knows whether the failure spoils it. One that ended without its last message, as a killed one does, has
    found nothing wrong with it. Where it could not see what is left, the kind of its failure decides.
    """
    if not isinstance(end.last, Failed):
        return True
    is_useful = FAILURE_KINDS[end.last.failure.code].staging == "kept"
    return end.last.staging == "kept" or (end.last.staging == "unknown" and is_useful)


def blames_database(end: LoaderExit) -> bool:
    """Whether the loader says that the database could not be used: then the service has to see for itself."""
    return isinstance(end.last, Failed) and FAILURE_KINDS[end.last.failure.code].exit_code in (
        ExitCode.DATABASE_UNAVAILABLE,
        ExitCode.CONFIGURATION,
    )


def decide(
    end: LoaderExit,
    standing: Known,
    asked: StopIntent,
    fruitless: int = 0,
    retries: RetryPolicy = RETRIES,
    *,
    locked: int = 0,
    is_database_down: bool = False,
) -> Outcome:
    """Return what becomes of the import.

    `fruitless`: failures in a row before this one, without progress between. `locked`: those in a row that others' locks
    ended, which are not among them. `is_database_down`: the service can't use it either, since the loader has ended.
    """
    receipt = _receipt(end, standing)
    if receipt is not None:  # whatever was asked for: the ledger decides
        return Outcome(State.SUCCEEDED, receipt=receipt)
    failure = failure_of(end)
    if asked is StopIntent.CANCEL:
        is_gone = standing == "absent" or (isinstance(end.last, Failed) and end.last.staging == "none")
        if not is_gone:
            return Outcome(State.CANCELLING, failure)
        return Outcome(State.CANCELLED if failure.retryable else State.FAILED, failure)
    if is_database_down and blames_database(end):  # no import's fault, and it lasts as long as it lasts
        return Outcome(State.QUEUED, failure, retry_after_seconds=retries.delay_seconds(0), is_retried=False)
    if not failure.retryable:
        return Outcome(State.FAILED, _with_deadline(failure, end))
    if asked is StopIntent.SUSPEND:
        return Outcome(State.QUEUED)
    is_locked = failure.code is FailureCode.TABLE_LOCKED
    before, most = (locked, retries.locked_attempts) if is_locked else (fruitless, retries.attempts)
    if before + 1 >= most:
        return Outcome(State.FAILED, _with_deadline(failure, end))
    delay_seconds = retries.delay_seconds(before)
    return Outcome(State.QUEUED, failure, retry_after_seconds=delay_seconds, is_retried=not is_locked)


def _with_deadline(failure: Failure, end: LoaderExit) -> Failure:
    """Say how long the service keeps what the last attempt left (reconciler.py), and how to go on."""
    if not isinstance(end.last, Failed) or end.last.staging != "kept":
        return failure
    needs_new_url = failure.code in _NEEDS_NEW_URL
    command = f"importer retry {end.last.import_id}{' --url NEW_URL' if needs_new_url else ''}"
    how = f"`{command}` begins it; a day from now the service drops what is kept."
    return msgspec.structs.replace(failure, hint=f"{failure.hint} {how}")


def failure_of(end: LoaderExit) -> Failure:
    """Return how the end of a loader that published nothing is called."""
    if isinstance(end.last, Failed):
        return _retryable_if_signalled(end.last.failure)
    if end.exit_code is None:
        return _killed(f"The loader could not be started: {end.log}")
    if end.was_silent:
        return _killed("The loader said nothing for too long, and was killed.")
    if end.was_stalled:
        return _killed("The loader came no further for too long, and was killed.")
    if end.exit_code < 0:
        return _killed(f"The loader was killed by {_signal_name(-end.exit_code)}.")
    code = FailureCode.INTERNAL_ERROR
    if end.exit_code in _CODES:
        code = _CODES[ExitCode(end.exit_code)]
    message = f"The loader ended with exit code {end.exit_code} and without its last message."
    return _retryable_if_signalled(LoaderError(code, message, "Its log says more.").failure)


def _receipt(end: LoaderExit, standing: Known) -> Receipt | None:
    if isinstance(end.last, Published):
        return end.last.receipt
    return standing if isinstance(standing, Receipt) else None


def _retryable_if_signalled(failure: Failure) -> Failure:
    """Somebody's signal says nothing about the import. (Ours is told by what was asked, not by this.)"""
    if failure.code in _SIGNALLED:
        return msgspec.structs.replace(failure, retryable=True)
    return failure


def _killed(message: str) -> Failure:
    return LoaderError(
        FailureCode.LOADER_KILLED,
        message,
        "The next attempt goes on from what is committed. If this happens again and again, see whether the machine is"
        " out of memory: fewer slots or workers need less.",
    ).failure


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
