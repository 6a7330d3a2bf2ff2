"""Imports in the control DB under parallel callers: submissions, transitions, the queue, pages, waiting for changes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from datetime import timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from importer.api import schemas
from importer.model import FINISHED, MAX_RETRY_DELAY_SECONDS, Attempt, AttemptResult, JobChanges, State
from importer.store.errors import IdempotencyConflict
from importer.store.rows import Parameters
from importer.store.store import Store
from importer.store.transitions import NEXT_DUE, NEXT_IN_QUEUE, queue_times
from importer.supervisor.outcome import SERVICE_ENDED
from loader.contract import FailureCode, Phase, Progress
from tests.support.store_driver import (
    FAILURE,
    PROGRESS,
    Clock,
    brought_to,
    existing,
    finished,
    job,
    receipt,
    submitted,
)

pytestmark = pytest.mark.anyio

# No test waits so long: its own time limit is shorter.
FOREVER_SECONDS = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(path: Path, clock: Clock) -> AsyncGenerator[Store]:
    opened = await Store.open(path, clock)
    yield opened
    await opened.close()


# Submissions


async def test_a_repeated_key_with_the_same_job_returns_the_same_import(store: Store) -> None:
    first, created = await store.submit(job(), "key")
    assert created
    assert await store.submit(job(), "key") == (first, False)
    await store.claim()
    again, created = await store.submit(job(), "key")
    assert (again.id, again.state, created) == (first.id, State.RUNNING, False)


async def test_a_repeated_key_with_another_job_is_a_conflict(store: Store) -> None:
    first, _ = await store.submit(job("https://example.org/a"), "key")
    with pytest.raises(IdempotencyConflict) as conflict:
        await store.submit(job("https://example.org/b"), "key")
    assert conflict.value.import_id == first.id
    assert await store.page(limit=10, before_sequence=None) == [first]


async def test_parallel_submissions_with_one_key_create_one_import(store: Store) -> None:
    answers = await asyncio.gather(*(store.submit(job(), "key") for _ in range(50)))
    assert len({found.id for found, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1


async def test_submissions_without_a_key_create_an_import_each(store: Store) -> None:
    same = "https://example.org/same"
    answers = await asyncio.gather(*(store.submit(job(same), None) for _ in range(10)))
    assert len({found.id for found, _ in answers}) == 10


async def test_a_key_can_be_reused_after_its_import_is_deleted(store: Store) -> None:
    first, _ = await store.submit(job(), "key")
    await store.request_cancel(first.id)
    await store.request_removal(first.id, drops_rows=True)
    assert await store.delete(first.id)
    second, created = await store.submit(job("https://example.org/other"), "key")
    assert created
    assert second.sequence > first.sequence


# Races between transitions


async def test_only_one_of_fifty_parallel_cancels_moves_the_import(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)
    answers = await asyncio.gather(*(store.request_cancel(running.id) for _ in range(50)))
    assert {existing(answer).state for answer in answers} == {State.CANCELLING}
    assert existing(await store.get(running.id)).version == running.version + 1


async def test_only_one_of_fifty_parallel_cancels_ends_a_queued_import(store: Store) -> None:
    queued = await submitted(store)
    answers = await asyncio.gather(*(store.request_cancel(queued.id) for _ in range(50)))
    assert [existing(answer).state for answer in answers if answer] == [State.CANCELLED]
    assert existing(await store.get(queued.id)).version == queued.version + 1


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_success_wins_against_a_cancel_at_the_same_time(store: Store, cancel_first: bool) -> None:
    running = await brought_to(store, State.RUNNING)
    both = [store.request_cancel(running.id), finished(store, running, State.SUCCEEDED)]
    answers = await asyncio.gather(*(both if cancel_first else reversed(both)))
    expected = [State.CANCELLING, State.SUCCEEDED] if cancel_first else [State.SUCCEEDED, None]
    assert [answer and answer.state for answer in answers] == expected
    assert existing(await store.get(running.id)).state is State.SUCCEEDED


async def test_a_cancelled_import_is_not_queued_again_by_a_retryable_failure(store: Store) -> None:
    cancelling = await brought_to(store, State.CANCELLING)
    assert await finished(store, cancelling, State.QUEUED) is None
    (attempt,) = await store.attempts(cancelling.id)
    assert attempt.finished_at is None


async def test_parallel_claims_take_each_import_once_oldest_first(store: Store) -> None:
    queue = [await submitted(store) for _ in range(10)]
    claims = await asyncio.gather(*(store.claim() for _ in range(30)))
    assert [claimed.id for claimed in claims if claimed] == [one.id for one in queue]


async def test_a_change_of_a_cancelled_caller_is_committed_and_notified(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)
    watching = asyncio.create_task(store.wait_for_change(running.id, running.version, FOREVER_SECONDS))
    calls = [asyncio.create_task(store.request_cancel(running.id)) for _ in range(20)]
    await asyncio.sleep(0)  # each has started
    for call in calls:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert existing(await watching).state is State.CANCELLING
    assert existing(await finished(store, running, State.CANCELLED)).version == running.version + 2


@pytest.mark.parametrize("state", [State.RUNNING, State.CANCELLING, State.REMOVING])
async def test_an_attempt_cannot_end_in_an_unfinished_state(store: Store, state: State) -> None:
    running = await brought_to(store, State.RUNNING)
    assert await finished(store, running, state) is None
    assert await store.get(running.id) == running


async def test_a_success_without_a_receipt_is_refused(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)
    with pytest.raises(sqlite3.IntegrityError):
        await store.finish_attempt(running.id, AttemptResult(state=State.SUCCEEDED, exit_code=0))
    assert await store.get(running.id) == running


# The queue


async def test_an_import_that_is_not_due_is_skipped_and_keeps_its_place(store: Store, clock: Clock) -> None:
    first = await brought_to(store, State.RUNNING)
    second = await submitted(store)
    third = await submitted(store)
    due = clock.now + timedelta(seconds=10)
    elsewhere = due.astimezone(timezone(timedelta(hours=5)))
    await store.finish_attempt(
        first.id, AttemptResult(state=State.QUEUED, exit_code=75, error=FAILURE, not_before=elsewhere)
    )
    assert await store.next_due() == due
    assert existing(await store.claim()).id == second.id
    clock.advance(10)
    assert await store.next_due() is None
    claimed = existing(await store.claim())
    assert (claimed.id, claimed.error, claimed.not_before) == (first.id, None, None)
    assert existing(await store.claim()).id == third.id
    assert await store.claim() is None


async def test_an_attempt_delayed_for_years_by_a_wrong_clock_is_due(store: Store, clock: Clock) -> None:
    one = await brought_to(store, State.RUNNING)
    year = timedelta(days=365)
    late = AttemptResult(State.QUEUED, error=FAILURE, not_before=clock.now + 4 * year + timedelta(seconds=10))
    await store.finish_attempt(one.id, late)
    assert await store.next_due() is None
    clock.advance(4 * year.total_seconds())
    assert await store.claim() is None  # the clock was right
    clock.advance(-4 * year.total_seconds())
    assert existing(await store.claim()).id == one.id
    latest = clock.now + timedelta(seconds=MAX_RETRY_DELAY_SECONDS)
    await store.finish_attempt(one.id, AttemptResult(State.QUEUED, error=FAILURE, not_before=latest))
    assert await store.claim() is None
    assert await store.next_due() == latest


async def test_a_retry_request_makes_an_import_due_at_once(store: Store, clock: Clock) -> None:
    """Also for an import that waits for its next attempt: the wait ends, and its counts start over."""
    one = await brought_to(store, State.RUNNING)
    later = clock.now + timedelta(seconds=100)
    waiting = existing(
        await store.finish_attempt(one.id, AttemptResult(State.QUEUED, error=FAILURE, not_before=later))
    )
    assert await store.claim() is None
    asked = existing(await store.retry(one.id))
    assert (asked.state, asked.not_before, asked.error) == (State.QUEUED, None, None)
    assert (asked.retry_count, asked.progress, asked.version) == (0, PROGRESS, waiting.version + 1)
    assert await store.retry(one.id) is None  # it is due already
    assert existing(await store.claim()).id == one.id


async def test_a_new_url_replaces_the_old_one_and_the_key_keeps_its_first_body(store: Store) -> None:
    first = job("https://example.org/a?signature=1")
    submitted, _ = await store.submit(first, "key")
    await store.request_cancel(submitted.id)
    for number in (2, 3):
        source = f"https://example.org/a?signature={number}"
        asked = existing(await store.retry(submitted.id, JobChanges(source=source)))
        assert asked.job == msgspec.structs.replace(first, source=source)
        assert (await store.submit(first, "key"))[0].id == submitted.id
        with pytest.raises(IdempotencyConflict):
            await store.submit(asked.job, "key")
        assert existing(await store.claim()).job.source == source
        await finished(store, submitted, State.FAILED)
    assert existing(await store.retry(submitted.id)).job.source == source


async def test_only_failures_count_as_retries_and_a_retry_request_resets_the_count(store: Store) -> None:
    one = await brought_to(store, State.RUNNING)
    suspended = await store.finish_attempt(
        one.id, AttemptResult(state=State.QUEUED, exit_code=75, error=None, log="the service stops")
    )
    assert existing(suspended).retry_count == 0
    assert existing(suspended).progress == PROGRESS  # its staging is kept
    await store.claim()
    failed_once = existing(await finished(store, one, State.QUEUED))
    assert (failed_once.retry_count, failed_once.error) == (1, FAILURE)
    await store.claim()
    assert existing(await finished(store, one, State.FAILED)).error == FAILURE
    asked = existing(await store.retry(one.id))
    assert (asked.retry_count, asked.attempt_count, asked.error, asked.progress) == (0, 3, None, None)


async def test_a_series_of_attempts_starts_anew_with_the_retry_of_an_ended_import(
    store: Store, clock: Clock
) -> None:
    """Its duration is then that of the attempts since, without the hours in which it had ended."""
    one = await brought_to(store, State.RUNNING)
    first = one.series_started_at
    assert first == one.started_at
    await finished(store, one, State.QUEUED)
    clock.now += timedelta(seconds=60)
    assert existing(await store.claim()).series_started_at == first
    await finished(store, one, State.FAILED)
    clock.now += timedelta(hours=5)
    assert existing(await store.retry(one.id)).series_started_at is None
    again = existing(await store.claim())
    assert (again.started_at, again.series_started_at) == (one.started_at, clock.now)


FORBIDDEN = msgspec.structs.replace(FAILURE, code=FailureCode.SOURCE_FORBIDDEN, retryable=False)
BAD_ROW = msgspec.structs.replace(FAILURE, code=FailureCode.BAD_ROW, retryable=False)


@pytest.mark.parametrize(
    ("phase", "ending", "kept"),
    [
        ("loading", AttemptResult(State.QUEUED, -9, FAILURE), True),
        ("loading", AttemptResult(State.QUEUED, -9, FAILURE, keeps_staging=True), True),
        ("loading", AttemptResult(State.FAILED, -9, FAILURE, keeps_staging=True), True),
        ("loading", AttemptResult(State.FAILED, 66, FORBIDDEN, keeps_staging=True), True),
        ("rolling_back", AttemptResult(State.QUEUED, 143, FAILURE), False),
        ("rolling_back", AttemptResult(State.FAILED, 143, FAILURE, keeps_staging=True), False),
        ("loading", AttemptResult(State.FAILED, 65, BAD_ROW), False),
        ("loading", AttemptResult(State.CANCELLED, 143, FAILURE), False),
    ],
)
async def test_an_import_that_was_rolled_back_has_no_progress(
    store: Store, phase: Phase, ending: AttemptResult, kept: bool
) -> None:
    one = await brought_to(store, State.RUNNING)
    await store.report(one.id, phase, PROGRESS)
    if ending.state is State.CANCELLED:
        await store.request_cancel(one.id)
    assert existing(await store.finish_attempt(one.id, ending)).progress == (PROGRESS if kept else None)


async def test_an_attempt_ended_by_the_service_is_shown_and_not_counted(store: Store) -> None:
    one = await brought_to(store, State.RUNNING)
    ended = existing(
        await store.finish_attempt(one.id, AttemptResult(State.QUEUED, error=SERVICE_ENDED, is_retried=False))
    )
    assert (ended.retry_count, ended.error) == (0, SERVICE_ENDED)
    (attempt,) = await store.attempts(one.id)
    assert attempt.error == SERVICE_ENDED


async def test_rates_are_shown_only_while_a_loader_reports_them(store: Store) -> None:
    """Not after the loader has ended, and not before its first report."""
    one = await brought_to(store, State.RUNNING)
    assert schemas.Import.of(one).progress.bytes_per_second == PROGRESS.bytes_per_second
    queued = existing(await finished(store, one, State.QUEUED))
    claimed = existing(await store.claim())
    await store.request_cancel(one.id)
    cancelling = existing(await store.show_cleanup_failure(one.id, FAILURE))
    for found in (queued, claimed, cancelling):
        shown = schemas.Import.of(found).progress
        assert (shown.bytes_per_second, shown.eta_seconds) == (None, None)
        assert shown.bytes_done == PROGRESS.bytes_done


async def test_a_claim_among_ten_thousand_imports_reads_one_row(store: Store, path: Path) -> None:
    await submitted(store)
    now = queue_times(Clock()())
    with closing(sqlite3.connect(path)) as other:
        few = steps(other, NEXT_IN_QUEUE, now)
        other.execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
            " INSERT INTO import (id, job, state, version, attempt_count, retry_count, locked_count, keeps_staging,"
            " created_at) SELECT 'import-' || i, job, 'queued', 1, 0, 0, 0, 0, created_at FROM import, n"
        )
        other.commit()
        assert steps(other, NEXT_IN_QUEUE, now) == few
        for query, index in ((NEXT_IN_QUEUE, "import_by_state"), (NEXT_DUE, "import_by_time")):
            plan = [row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {query}", now)]
            assert len(plan) == 1
            assert plan[0].startswith("SEARCH import USING")
            assert index in plan[0]


def steps(connection: sqlite3.Connection, query: str, parameters: Parameters) -> int:
    """Return the number of instructions of SQLite's virtual machine that a query executes."""
    connection.execute(query, parameters).fetchall()  # the first one reads the schema, too
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(step, 1)
    connection.execute(query, parameters).fetchall()
    connection.set_progress_handler(None, 1)
    return count


# Queries


async def test_imports_and_attempts_are_unchanged_after_a_restart(path: Path, clock: Clock) -> None:
    store = await Store.open(path, clock)
    one = await submitted(store)
    clock.advance(1)
    started = existing(await store.claim())
    assert started.started_at == clock.now
    clock.advance(1)
    await finished(store, one, State.QUEUED)
    clock.advance(1)
    again = existing(await store.claim())
    assert again.started_at == started.started_at
    await store.report(one.id, "publishing", PROGRESS)
    clock.advance(1)
    ended = existing(await finished(store, one, State.SUCCEEDED))
    assert ended.receipt == receipt(one)
    assert (ended.finished_at, ended.phase, ended.progress) == (clock.now, None, PROGRESS)
    attempts = await store.attempts(one.id)
    begin = one.created_at
    seconds = [begin + timedelta(seconds=number) for number in range(5)]
    assert attempts == [
        Attempt(1, seconds[1], seconds[2], 70, FAILURE),
        Attempt(2, seconds[3], seconds[4], 0, None),
    ]
    assert await store.attempts(one.id, limit=1) == attempts[:1]
    assert await store.attempts(one.id, limit=9, after_number=1) == attempts[1:]
    assert await store.attempt_log(one.id, 2) == "the end of stderr"
    assert await store.attempt_log(one.id, 3) is None
    await store.close()

    store = await Store.open(path, clock)
    assert await store.get(one.id) == ended
    assert await store.attempts(one.id) == attempts
    await store.close()


async def test_pages_list_the_newest_imports_first(store: Store) -> None:
    imports = [await submitted(store) for _ in range(5)]
    cancelled = existing(await store.request_cancel(imports[2].id))
    newest = [imports[4], imports[3], cancelled, imports[1], imports[0]]
    first = await store.page(limit=3, before_sequence=None)
    assert first == newest[:3]
    assert await store.page(limit=3, before_sequence=first[-1].sequence) == newest[3:]
    assert await store.page(states=[State.CANCELLED], limit=3, before_sequence=None) == [cancelled]
    assert await store.page(states=[State.CANCELLED], limit=3, before_sequence=cancelled.sequence) == []
    assert await store.counts() == dict.fromkeys(State, 0) | {State.QUEUED: 4, State.CANCELLED: 1}


async def test_only_old_finished_imports_are_pruned_with_their_attempts(
    store: Store, path: Path, clock: Clock
) -> None:
    old = [await brought_to(store, state) for state in sorted(FINISHED)]
    kept = [await brought_to(store, State.RUNNING), await brought_to(store, State.REMOVING)]
    end = clock.advance(1)
    kept.append(await brought_to(store, State.FAILED))
    waiting = asyncio.create_task(store.wait_for_change(old[0].id, old[0].version, FOREVER_SECONDS))
    await asyncio.sleep(0)
    assert await store.prune(end) == 3
    assert await waiting is None
    assert await store.page(limit=10, before_sequence=None) == list(reversed(kept))
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT import_sequence FROM attempt ORDER BY 1").fetchall() == [
            (one.sequence,) for one in kept
        ]


# Waiting


async def test_all_waiting_callers_get_a_change(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)
    waiting = [
        asyncio.create_task(store.wait_for_change(running.id, running.version, FOREVER_SECONDS))
        for _ in range(100)
    ]
    other = await submitted(store)
    await store.request_cancel(other.id)
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    reported = await store.report(running.id, "publishing", PROGRESS)
    assert await asyncio.gather(*waiting) == [reported] * 100


async def test_a_waiting_caller_gets_increasing_versions(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)

    async def follow() -> list[int]:
        versions: list[int] = []
        found = running
        while found.state is not State.SUCCEEDED:
            found = existing(await store.wait_for_change(found.id, found.version, FOREVER_SECONDS))
            versions.append(found.version)
        return versions

    following = asyncio.create_task(follow())
    for done in range(100):
        await store.report(running.id, "loading", msgspec.structs.replace(PROGRESS, bytes_done=done))
        read = existing(await store.get(running.id))
        assert read.progress == Progress(**{**msgspec.structs.asdict(PROGRESS), "bytes_done": done})
    await finished(store, running, State.SUCCEEDED)
    versions = await following
    assert versions == sorted(set(versions))
    assert versions[-1] == running.version + 101


async def test_a_caller_with_another_version_gets_the_import_at_once(store: Store) -> None:
    one = await submitted(store)
    for version in (one.version - 1, one.version + 1):  # a version from before a power cut may be higher
        assert await store.wait_for_change(one.id, version, FOREVER_SECONDS) == one


async def test_an_unchanged_import_is_returned_after_the_timeout(store: Store) -> None:
    one = await submitted(store)
    assert await store.wait_for_change(one.id, one.version, 0.05) == one


async def test_a_waiting_caller_learns_that_the_import_is_deleted(store: Store) -> None:
    removing = await brought_to(store, State.REMOVING)
    waiting = asyncio.create_task(store.wait_for_change(removing.id, removing.version, FOREVER_SECONDS))
    await asyncio.sleep(0)
    await store.delete(removing.id)
    assert await waiting is None
    assert await store.wait_for_change(removing.id, 1, FOREVER_SECONDS) is None
