"""The outcome of an attempt for each end of the loader, state of the ledger and intent."""

from __future__ import annotations

import itertools

import pytest

from importer.model import MAX_RETRY_DELAY_SECONDS, State, can_transition
from importer.supervisor.outcome import (
    RETRY_POLICY,
    AttemptRetryPolicy,
    LoaderExit,
    PossibleLedgerState,
    Staged,
    StopIntent,
    blames_database,
    decide,
    failure_of,
    keeps_staging,
    needs_ledger,
)
from loader.contract import FAILURE_KINDS, ExitCode, Failed, FailureCode, Published, Receipt
from loader.errors import LoaderError
from tests.support.store_driver import RECEIPT

STAGED = Staged(committed_bytes=5)
NOTHING, CANCEL, SUSPEND = StopIntent.NOTHING, StopIntent.CANCEL, StopIntent.SUSPEND
PUBLISHED = LoaderExit(0, Published(RECEIPT), "")


def failed(code: str, staging: str = "none") -> LoaderExit:
    """The exit of a loader that reported its failure."""
    known = FailureCode(code)
    assert staging in ("none", "kept", "unknown")
    failure = LoaderError(known, "What happened.", "What to do.").failure
    return LoaderExit(FAILURE_KINDS[known].exit_code, Failed(failure, staging), "")


def exited(code: int | None) -> LoaderExit:
    """The exit of a loader without a last message."""
    return LoaderExit(code, None, "")


SILENT = LoaderExit(-9, None, "", was_silent=True)
STALLED = LoaderExit(-9, None, "", was_stalled=True)

CASES: list[tuple[LoaderExit, PossibleLedgerState, StopIntent, State, str | None]] = [
    # A published import succeeds, whatever was requested and whatever happened after the publish.
    (PUBLISHED, "unknown", NOTHING, State.SUCCEEDED, None),
    (PUBLISHED, "unknown", CANCEL, State.SUCCEEDED, None),
    (PUBLISHED, "unknown", SUSPEND, State.SUCCEEDED, None),
    (LoaderExit(-9, Published(RECEIPT), ""), "unknown", NOTHING, State.SUCCEEDED, None),
    (exited(-9), RECEIPT, NOTHING, State.SUCCEEDED, None),
    (exited(-9), RECEIPT, CANCEL, State.SUCCEEDED, None),
    (exited(0), RECEIPT, NOTHING, State.SUCCEEDED, None),
    (exited(70), RECEIPT, NOTHING, State.SUCCEEDED, None),
    (failed("database_unavailable", "unknown"), RECEIPT, NOTHING, State.SUCCEEDED, None),
    (failed("cleanup_pending", "unknown"), RECEIPT, CANCEL, State.SUCCEEDED, None),
    # Final failures are not retried.
    (failed("bad_row"), "unknown", NOTHING, State.FAILED, "bad_row"),
    (failed("bad_row", "unknown"), STAGED, NOTHING, State.FAILED, "bad_row"),
    (failed("source_not_found"), "unknown", NOTHING, State.FAILED, "source_not_found"),
    (failed("out_of_space"), "unknown", NOTHING, State.FAILED, "out_of_space"),
    (failed("internal_error"), "unknown", NOTHING, State.FAILED, "internal_error"),
    (failed("header_mismatch"), "unknown", SUSPEND, State.FAILED, "header_mismatch"),
    # Retryable failures are.
    (failed("source_unreachable", "kept"), STAGED, NOTHING, State.QUEUED, "source_unreachable"),
    (failed("source_unreachable"), "unknown", NOTHING, State.QUEUED, "source_unreachable"),
    (failed("database_unavailable", "unknown"), "unknown", NOTHING, State.QUEUED, "database_unavailable"),
    (failed("table_locked", "kept"), STAGED, NOTHING, State.QUEUED, "table_locked"),
    (failed("import_busy", "kept"), STAGED, NOTHING, State.QUEUED, "import_busy"),
    (failed("cleanup_pending", "unknown"), STAGED, NOTHING, State.QUEUED, "cleanup_pending"),
    # So are foreign signals and lack of memory.
    (failed("suspended", "kept"), STAGED, NOTHING, State.QUEUED, "suspended"),
    (failed("terminated"), "unknown", NOTHING, State.QUEUED, "terminated"),
    (failed("interrupted"), "unknown", NOTHING, State.QUEUED, "interrupted"),
    (exited(-9), STAGED, NOTHING, State.QUEUED, "loader_killed"),
    (exited(-9), "absent", NOTHING, State.QUEUED, "loader_killed"),
    (exited(-11), "unknown", NOTHING, State.QUEUED, "loader_killed"),
    (SILENT, STAGED, NOTHING, State.QUEUED, "loader_killed"),
    (STALLED, STAGED, NOTHING, State.QUEUED, "loader_killed"),
    (exited(None), "absent", NOTHING, State.QUEUED, "loader_killed"),
    # Without a last message the exit code decides.
    (exited(0), "absent", NOTHING, State.FAILED, "internal_error"),
    (exited(1), "absent", NOTHING, State.FAILED, "internal_error"),
    (exited(2), "absent", NOTHING, State.FAILED, "usage"),
    (exited(65), STAGED, NOTHING, State.FAILED, "internal_error"),
    (exited(70), STAGED, NOTHING, State.FAILED, "internal_error"),
    (exited(75), STAGED, NOTHING, State.QUEUED, "suspended"),
    (exited(143), "absent", NOTHING, State.QUEUED, "terminated"),
    (exited(200), "absent", NOTHING, State.FAILED, "internal_error"),
    # An import is cancelled only when nothing is left.
    (failed("terminated"), "unknown", CANCEL, State.CANCELLED, "terminated"),
    (failed("terminated", "unknown"), "absent", CANCEL, State.CANCELLED, "terminated"),
    (failed("terminated", "unknown"), STAGED, CANCEL, State.CANCELLING, "terminated"),
    (failed("cleanup_pending", "unknown"), STAGED, CANCEL, State.CANCELLING, "cleanup_pending"),
    (failed("cleanup_pending", "unknown"), "unknown", CANCEL, State.CANCELLING, "cleanup_pending"),
    (exited(-15), "absent", CANCEL, State.CANCELLED, "loader_killed"),
    (exited(-9), STAGED, CANCEL, State.CANCELLING, "loader_killed"),
    (exited(-9), "unknown", CANCEL, State.CANCELLING, "loader_killed"),
    (failed("source_unreachable"), "unknown", CANCEL, State.CANCELLED, "source_unreachable"),
    (failed("source_unreachable", "kept"), STAGED, CANCEL, State.CANCELLING, "source_unreachable"),
    (failed("import_busy", "kept"), STAGED, CANCEL, State.CANCELLING, "import_busy"),
    (failed("suspended", "kept"), STAGED, CANCEL, State.CANCELLING, "suspended"),
    # It failed before the cancel took effect.
    (failed("bad_row"), "unknown", CANCEL, State.FAILED, "bad_row"),
    (failed("bad_row", "unknown"), STAGED, CANCEL, State.CANCELLING, "bad_row"),
    # The service stops: no failure.
    (failed("suspended", "kept"), "unknown", SUSPEND, State.QUEUED, None),
    (failed("source_unreachable", "kept"), "unknown", SUSPEND, State.QUEUED, None),
    (failed("terminated"), "unknown", SUSPEND, State.QUEUED, None),
    (exited(-1), "unknown", SUSPEND, State.QUEUED, None),
    (exited(-9), "unknown", SUSPEND, State.QUEUED, None),
]


def describe(case: object) -> str:
    if isinstance(case, LoaderExit):
        last = case.last.failure.code if isinstance(case.last, Failed) else "published" if case.last else "-"
        return f"{case.exit_code},{last}"
    return type(case).__name__ if isinstance(case, Receipt | Staged) else str(case)


@pytest.mark.parametrize(("end", "ledger_state", "intent", "state", "code"), CASES, ids=describe)
def test_each_end_of_a_loader_leads_to_the_expected_state(
    end: LoaderExit, ledger_state: PossibleLedgerState, intent: StopIntent, state: State, code: str | None
) -> None:
    outcome = decide(end, ledger_state, intent)
    assert (outcome.state, outcome.error and outcome.error.code) == (state, code)
    assert outcome.receipt == (RECEIPT if state is State.SUCCEEDED else None)
    is_tried_again = state is State.QUEUED and intent is NOTHING
    assert outcome.retry_after_seconds == (RETRY_POLICY.first_delay_seconds if is_tried_again else 0)


ENDS = [
    PUBLISHED,
    SILENT,
    STALLED,
    *(exited(code) for code in (None, -15, -9, -1, 0, 1, *ExitCode)),
    *(failed(code, staging) for code in FailureCode for staging in ("none", "kept", "unknown")),
]
LEDGER_STATES: list[PossibleLedgerState] = [RECEIPT, STAGED, "absent", "unknown"]


@pytest.mark.parametrize("intent", StopIntent)
@pytest.mark.parametrize("without_progress", [0, 100])
def test_every_outcome_is_an_allowed_transition(intent: StopIntent, without_progress: int) -> None:
    origin = State.CANCELLING if intent is CANCEL else State.RUNNING
    for end, ledger_state in itertools.product(ENDS, LEDGER_STATES):
        outcome = decide(end, ledger_state, intent, without_progress)
        assert can_transition(origin, outcome.state) or outcome.state is origin
        assert (outcome.receipt is not None) == (outcome.state is State.SUCCEEDED)
        assert outcome.error is not None or outcome.state is not State.FAILED


def test_an_import_published_in_the_ledger_always_succeeds() -> None:
    for end, intent in itertools.product(ENDS, StopIntent):
        assert decide(end, RECEIPT, intent).state is State.SUCCEEDED


def test_an_import_that_may_have_staging_is_never_cancelled() -> None:
    for end in ENDS:
        if needs_ledger(end):
            for ledger_state in (STAGED, "unknown"):
                assert decide(end, ledger_state, CANCEL).state is not State.CANCELLED


def test_retries_are_delayed_longer_each_time_and_end() -> None:
    end = failed("source_unreachable", "kept")
    retry_policy = AttemptRetryPolicy(attempts=4, first_delay_seconds=3)
    outcomes = [decide(end, STAGED, NOTHING, without_progress, retry_policy) for without_progress in range(4)]
    assert [outcome.retry_after_seconds for outcome in outcomes] == [3, 6, 12, 0]
    assert [outcome.state for outcome in outcomes] == [*[State.QUEUED] * 3, State.FAILED]
    assert outcomes[-1].error is not None
    assert outcomes[-1].error.retryable  # on request


def test_locks_are_waited_for_a_day() -> None:
    assert RETRY_POLICY.locked_attempts * 10 == 24 * 60  # minutes, of which a loader waits ten (limits.py)


def test_the_retries_of_an_import_take_four_to_nine_minutes() -> None:
    seconds = sum(
        RETRY_POLICY.delay_seconds(without_progress) for without_progress in range(RETRY_POLICY.attempts - 1)
    )
    assert 4 * 60 <= seconds <= 9 * 60


def test_attempts_with_table_locked_are_counted_separately() -> None:
    end = failed("table_locked", "kept")
    retry_policy = AttemptRetryPolicy(attempts=2, first_delay_seconds=3, locked_attempts=3)
    outcomes = [
        decide(end, STAGED, NOTHING, 100, retry_policy, locked_attempts=locked) for locked in range(3)
    ]
    assert [outcome.state for outcome in outcomes] == [State.QUEUED, State.QUEUED, State.FAILED]
    assert [outcome.retry_after_seconds for outcome in outcomes] == [3, 6, 0]
    assert not any(outcome.is_retried for outcome in outcomes[:2])
    assert decide(
        failed("import_busy", "kept"), STAGED, NOTHING, 0, retry_policy, locked_attempts=100
    ).is_retried


@pytest.mark.parametrize("code", ["database_unavailable", "database_configuration"])
def test_an_outage_confirmed_by_the_service_is_not_counted(code: str) -> None:
    """Also for a final failure such as a changed password, which would fail the whole queue."""
    end = failed(code, "kept")
    outcome = decide(end, STAGED, NOTHING, 100, is_database_down=True)
    assert (outcome.state, outcome.is_retried) == (State.QUEUED, False)
    assert outcome.error is not None
    assert outcome.retry_after_seconds > 0
    assert decide(end, STAGED, NOTHING, 100).state is State.FAILED
    assert decide(end, STAGED, CANCEL, is_database_down=True).state is State.CANCELLING
    assert decide(end, RECEIPT, NOTHING, is_database_down=True).state is State.SUCCEEDED
    for of_the_import in (failed("bad_row"), failed("source_unreachable", "kept")):
        assert decide(of_the_import, STAGED, NOTHING, 100, is_database_down=True).state is State.FAILED


def test_failures_that_blame_the_database_are_recognized() -> None:
    blaming = {code for code in FailureCode if blames_database(failed(code))}
    assert {"database_unavailable", "database_rights", "cleanup_pending"} <= blaming
    assert not blaming & {"bad_row", "source_forbidden", "table_locked", "out_of_space", "internal_error"}
    assert not blames_database(exited(-9))


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        (failed("source_forbidden", "kept"), True),
        (failed("source_unreachable", "kept"), True),
        (failed("source_unreachable", "unknown"), True),
        (failed("source_unreachable", "none"), False),
        (failed("bad_row", "unknown"), False),
        (failed("bad_row"), False),
        (exited(-9), True),
        (exited(1), True),
    ],
)
def test_staging_is_kept_unless_the_failure_makes_it_useless(end: LoaderExit, kept: bool) -> None:
    assert keeps_staging(end) == kept
    failure = decide(end, STAGED, NOTHING, 100).error
    assert failure is not None
    says_how_long = isinstance(end.last, Failed) and end.last.staging == "kept"
    assert ("a day from now" in failure.hint) == says_how_long


def test_no_retry_delay_exceeds_the_maximum() -> None:
    assert AttemptRetryPolicy().delay_seconds(8) == 256
    assert (
        AttemptRetryPolicy().delay_seconds(9)
        == AttemptRetryPolicy().delay_seconds(1000)
        == MAX_RETRY_DELAY_SECONDS
    )


def test_the_failure_of_a_killed_loader_names_the_reason_or_the_signal() -> None:
    assert "no message" in failure_of(SILENT).message
    assert "no progress" in failure_of(STALLED).message
    assert "SIGSEGV" in failure_of(exited(-11)).message
    assert "signal 40" in failure_of(exited(-40)).message


def test_the_failure_of_a_loader_that_could_not_start_has_the_reason() -> None:
    end = LoaderExit(None, None, "[Errno 11] Resource temporarily unavailable")
    assert "temporarily unavailable" in failure_of(end).message


def test_the_ledger_is_asked_only_if_something_may_be_left() -> None:
    assert not needs_ledger(PUBLISHED)
    assert not needs_ledger(failed("bad_row"))
    assert needs_ledger(failed("bad_row", "unknown"))
    assert needs_ledger(failed("source_unreachable", "kept"))  # for the committed bytes
    assert needs_ledger(exited(-9))
