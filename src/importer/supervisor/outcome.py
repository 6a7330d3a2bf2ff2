"""The next state of an import whose loader has ended. Pure.

The loader's last message decides; without one, the ledger does. The exit code only names a failure without a last message.
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
    """What the service had asked the loader to do before it ended."""

    NOTHING = enum.auto()
    CANCEL = enum.auto()
    SUSPEND = enum.auto()  # the service stops


class LoaderExit(msgspec.Struct, frozen=True):
    """How a process ended, and what it left to read."""

    exit_code: int | None  # negative: the signal that killed it; None: it could not be started
    last: Published | Failed | None  # its last message; None: it sent none
    log: str  # the end of its stderr
    was_silent: bool = False  # killed because it sent no message for too long
    was_stalled: bool = False  # killed because its messages showed no progress for too long


class Staged(msgspec.Struct, frozen=True):
    """The ledger has the import, unpublished."""

    committed_bytes: int  # decompressed, of all committed blocks


# The ledger's state of an import: published, unpublished, or not in the ledger.
LedgerState = Receipt | Staged | Literal["absent"]
# The same; unknown: the ledger was not asked, or did not answer.
PossibleLedgerState = LedgerState | Literal["unknown"]


class AttemptRetryPolicy(msgspec.Struct, frozen=True):
    """When a retryable failure is final. Tests use shorter delays."""

    # Consecutive attempts that committed nothing. With the delays below they take four to nine minutes: by then a database
    # has restarted or failed over, and a person who waits for the import is still there.
    attempts: int = 10
    first_delay_seconds: float = 1  # doubled each time
    # Consecutive attempts that failed with table_locked. A loader waits ten minutes for a lock (limits.py): a day.
    locked_attempts: int = 144

    def delay_seconds(self, attempts_without_progress: int) -> float:
        """Return the delay after a failure that followed this many attempts without progress."""
        return min(self.first_delay_seconds * 2.0**attempts_without_progress, MAX_RETRY_DELAY_SECONDS)


RETRY_POLICY = AttemptRetryPolicy()


# Of an attempt whose end the service did not see. The import did not cause it, but an operator should know.
SERVICE_ENDED = LoaderError(
    FailureCode.SUSPENDED,
    "The service ended during this attempt without an orderly stop.",
    "The next attempt resumes. If this happens repeatedly, check the service's log and exit code, and whether the machine is"
    " out of memory.",
).failure


class Outcome(msgspec.Struct, frozen=True):
    """The next state of the import."""

    state: State  # CANCELLING: its staging must be dropped first
    error: Failure | None = None  # of the attempt
    receipt: Receipt | None = None  # with SUCCEEDED
    retry_after_seconds: float = 0  # with QUEUED
    is_retried: bool = True  # with QUEUED and an error: it counts towards AttemptRetryPolicy.attempts


# Failures caused by a signal, from the service or from elsewhere.
_SIGNALLED = frozenset({FailureCode.TERMINATED, FailureCode.INTERRUPTED})

# A retry of these needs another URL.
_NEEDS_NEW_URL = frozenset(
    {FailureCode.SOURCE_FORBIDDEN, FailureCode.SOURCE_NOT_FOUND, FailureCode.SOURCE_CHANGED}
)

# The failures of exit codes without a last message. Any other exit code is a defect of the loader or of its machine.
_CODES = {
    ExitCode.USAGE: FailureCode.USAGE,  # the loader did not understand the job
    ExitCode.SUSPENDED: FailureCode.SUSPENDED,
    ExitCode.INTERRUPTED: FailureCode.INTERRUPTED,
    ExitCode.TERMINATED: FailureCode.TERMINATED,
}


def needs_ledger(end: LoaderExit) -> bool:
    """Whether the decision needs the ledger's state: the last message does not say what is left."""
    return end.last is None or (isinstance(end.last, Failed) and end.last.staging != "none")


def keeps_staging(end: LoaderExit) -> bool:
    """Whether the staging is kept for a retry if the import has failed.

    The last message says whether the failure makes it useless; without one, as after SIGKILL, it is kept. Where the loader
    could not see what is left, the kind of its failure decides.
    """
    if not isinstance(end.last, Failed):
        return True
    is_useful = FAILURE_KINDS[end.last.failure.code].staging == "kept"
    return end.last.staging == "kept" or (end.last.staging == "unknown" and is_useful)


def blames_database(end: LoaderExit) -> bool:
    """Whether the loader reports that it could not use the database; the service then checks that itself."""
    return isinstance(end.last, Failed) and FAILURE_KINDS[end.last.failure.code].exit_code in (
        ExitCode.DATABASE_UNAVAILABLE,
        ExitCode.CONFIGURATION,
    )


def decide(
    end: LoaderExit,
    ledger_state: PossibleLedgerState,
    intent: StopIntent,
    attempts_without_progress: int = 0,
    retry_policy: AttemptRetryPolicy = RETRY_POLICY,
    *,
    locked_attempts: int = 0,
    is_database_down: bool = False,
) -> Outcome:
    """Return the next state of the import.

    `attempts_without_progress`, `locked_attempts`: the consecutive failures before this one, without and with table_locked.
    `is_database_down`: the service has checked since the loader's end, and can't use the database either.
    """
    receipt = _receipt(end, ledger_state)
    if receipt is not None:
        return Outcome(State.SUCCEEDED, receipt=receipt)
    failure = failure_of(end)
    if intent is StopIntent.CANCEL:
        is_rolled_back = ledger_state == "absent" or (
            isinstance(end.last, Failed) and end.last.staging == "none"
        )
        if not is_rolled_back:
            return Outcome(State.CANCELLING, failure)
        return Outcome(State.CANCELLED if failure.retryable else State.FAILED, failure)
    if is_database_down and blames_database(end):  # not the import's failure, and it may last for hours
        return Outcome(
            State.QUEUED, failure, retry_after_seconds=retry_policy.delay_seconds(0), is_retried=False
        )
    if not failure.retryable:
        return Outcome(State.FAILED, _with_deadline(failure, end))
    if intent is StopIntent.SUSPEND:
        return Outcome(State.QUEUED)
    is_locked = failure.code is FailureCode.TABLE_LOCKED
    before, limit = (
        (locked_attempts, retry_policy.locked_attempts)
        if is_locked
        else (attempts_without_progress, retry_policy.attempts)
    )
    if before + 1 >= limit:
        return Outcome(State.FAILED, _with_deadline(failure, end))
    delay_seconds = retry_policy.delay_seconds(before)
    return Outcome(State.QUEUED, failure, retry_after_seconds=delay_seconds, is_retried=not is_locked)


def _with_deadline(failure: Failure, end: LoaderExit) -> Failure:
    """Add to the hint how long the service keeps the staging (reconciler.py), and how to resume."""
    if not isinstance(end.last, Failed) or end.last.staging != "kept":
        return failure
    needs_new_url = failure.code in _NEEDS_NEW_URL
    command = f"importer retry {end.last.import_id}{' --url NEW_URL' if needs_new_url else ''}"
    how = f"`{command}` resumes it. The service keeps its staging for a day from now."
    return msgspec.structs.replace(failure, hint=f"{failure.hint} {how}")


def failure_of(end: LoaderExit) -> Failure:
    """Return the failure of a loader that has not published."""
    if isinstance(end.last, Failed):
        return _retryable_if_signalled(end.last.failure)
    if end.exit_code is None:
        return _killed(f"The loader could not be started: {end.log}")
    if end.was_silent:
        return _killed("The loader sent no message for a minute and was killed.")
    if end.was_stalled:
        return _killed("The loader made no progress for 30 minutes and was killed.")
    if end.exit_code < 0:
        return _killed(f"The loader was killed by {_signal_name(-end.exit_code)}.")
    code = FailureCode.INTERNAL_ERROR
    if end.exit_code in _CODES:
        code = _CODES[ExitCode(end.exit_code)]
    message = f"The loader exited with code {end.exit_code} and without its last message."
    return _retryable_if_signalled(LoaderError(code, message, "Check the attempt's log.").failure)


def _receipt(end: LoaderExit, ledger_state: PossibleLedgerState) -> Receipt | None:
    if isinstance(end.last, Published):
        return end.last.receipt
    return ledger_state if isinstance(ledger_state, Receipt) else None


def _retryable_if_signalled(failure: Failure) -> Failure:
    """Make the failure retryable if a signal caused it: that is not the import's fault."""
    if failure.code in _SIGNALLED:
        return msgspec.structs.replace(failure, retryable=True)
    return failure


def _killed(message: str) -> Failure:
    return LoaderError(
        FailureCode.LOADER_KILLED,
        message,
        "The next attempt resumes. If this happens repeatedly, check whether the machine is out of memory: fewer slots or"
        " workers need less.",
    ).failure


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
