"""The control DB's imports under parallel callers: submissions, moves, the queue, listings, waiting for changes."""

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
from importer.model import FINISHED, MAX_RETRY_DELAY_SECONDS, Attempt, AttemptResult, State
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
    finished,
    job,
    receipt,
    submitted,
    there,
)

pytestmark = pytest.mark.anyio

# No test waits for the end of it: the test has failed before.
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


async def test_a_key_used_again_with_the_same_job_leads_to_the_same_import(store: Store) -> None:
    first, created = await store.submit(job(), "key")
    assert created
    assert await store.submit(job(), "key") == (first, False)
    await store.claim()
    again, created = await store.submit(job(), "key")
    assert (again.id, again.state, created) == (first.id, State.RUNNING, False)


async def test_a_key_used_again_with_another_job_is_a_conflict(store: Store) -> None:
    first, _ = await store.submit(job("https://example.org/a"), "key")
    with pytest.raises(IdempotencyConflict) as conflict:
        await store.submit(job("https://example.org/b"), "key")
    assert conflict.value.import_id == first.id
    assert await store.page(state=None, limit=10, before_sequence=None) == [first]


async def test_parallel_submissions_with_one_key_are_one_import(store: Store) -> None:
    answers = await asyncio.gather(*(store.submit(job(), "key") for _ in range(50)))
    assert len({found.id for found, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1


async def test_submissions_without_a_key_are_imports_of_their_own(store: Store) -> None:
    same = "https://example.org/same"
    answers = await asyncio.gather(*(store.submit(job(same), None) for _ in range(10)))
    assert len({found.id for found, _ in answers}) == 10


async def test_a_key_is_free_again_when_its_import_is_gone(store: Store) -> None:
    first, _ = await store.submit(job(), "key")
    await store.request_cancel(first.id)
    await store.request_removal(first.id)
    assert await store.delete(first.id)
    second, created = await store.submit(job("https://example.org/other"), "key")
    assert created
    assert second.sequence > first.sequence


# Moves that race


async def test_of_fifty_cancels_at_once_one_moves_the_import(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)
    answers = await asyncio.gather(*(store.request_cancel(running.id) for _ in range(50)))
    assert {there(answer).state for answer in answers} == {State.CANCELLING}
    assert there(await store.get(running.id)).version == running.version + 1


async def test_of_fifty_cancels_of_a_queued_import_one_ends_it(store: Store) -> None:
    queued = await submitted(store)
    answers = await asyncio.gather(*(store.request_cancel(queued.id) for _ in range(50)))
    assert [there(answer).state for answer in answers if answer] == [State.CANCELLED]
    assert there(await store.get(queued.id)).version == queued.version + 1


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancel_and_success_at_once_leave_the_success(store: Store, cancel_first: bool) -> None:
    running = await brought_to(store, State.RUNNING)
    both = [store.request_cancel(running.id), finished(store, running, State.SUCCEEDED)]
    answers = await asyncio.gather(*(both if cancel_first else reversed(both)))
    expected = [State.CANCELLING, State.SUCCEEDED] if cancel_first else [State.SUCCEEDED, None]
    assert [answer and answer.state for answer in answers] == expected
    assert there(await store.get(running.id)).state is State.SUCCEEDED


async def test_a_retryable_end_after_a_cancel_is_refused(store: Store) -> None:
    cancelling = await brought_to(store, State.CANCELLING)
    assert await finished(store, cancelling, State.QUEUED) is None
    (attempt,) = await store.attempts(cancelling.id)
    assert attempt.finished_at is None


async def test_parallel_claims_take_each_import_once_and_the_oldest_first(store: Store) -> None:
    queue = [await submitted(store) for _ in range(10)]
    claims = await asyncio.gather(*(store.claim() for _ in range(30)))
    assert [claimed.id for claimed in claims if claimed] == [one.id for one in queue]


async def test_a_cancelled_caller_leaves_a_whole_change_that_others_hear_of(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)
    watching = asyncio.create_task(store.wait_for_change(running.id, running.version, FOREVER_SECONDS))
    calls = [asyncio.create_task(store.request_cancel(running.id)) for _ in range(20)]
    await asyncio.sleep(0)  # each has begun
    for call in calls:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert there(await watching).state is State.CANCELLING
    assert there(await finished(store, running, State.CANCELLED)).version == running.version + 2


@pytest.mark.parametrize("state", [State.RUNNING, State.CANCELLING, State.REMOVING])
async def test_an_attempt_cannot_end_in_a_state_that_is_no_end(store: Store, state: State) -> None:
    running = await brought_to(store, State.RUNNING)
    assert await finished(store, running, state) is None
    assert await store.get(running.id) == running


async def test_a_success_without_receipt_cannot_be_written(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)
    with pytest.raises(sqlite3.IntegrityError):
        await store.finish_attempt(running.id, AttemptResult(state=State.SUCCEEDED, exit_code=0))
    assert await store.get(running.id) == running


# The queue


async def test_an_import_whose_time_has_not_come_lets_others_pass_and_keeps_its_place(
    store: Store, clock: Clock
) -> None:
    first = await brought_to(store, State.RUNNING)
    second = await submitted(store)
    third = await submitted(store)
    due = clock.now + timedelta(seconds=10)
    elsewhere = due.astimezone(timezone(timedelta(hours=5)))
    await store.finish_attempt(
        first.id, AttemptResult(state=State.QUEUED, exit_code=75, error=FAILURE, not_before=elsewhere)
    )
    assert await store.next_due() == due
    assert there(await store.claim()).id == second.id
    clock.advance(10)
    assert await store.next_due() is None
    claimed = there(await store.claim())
    assert (claimed.id, claimed.error, claimed.not_before) == (first.id, None, None)
    assert there(await store.claim()).id == third.id
    assert await store.claim() is None


async def test_an_attempt_that_a_wrong_clock_put_off_for_years_is_due(store: Store, clock: Clock) -> None:
    one = await brought_to(store, State.RUNNING)
    year = timedelta(days=365)
    late = AttemptResult(State.QUEUED, error=FAILURE, not_before=clock.now + 4 * year + timedelta(seconds=10))
    await store.finish_attempt(one.id, late)
    assert await store.next_due() is None
    clock.advance(4 * year.total_seconds())
    assert await store.claim() is None  # the clock was right
    clock.advance(-4 * year.total_seconds())
    assert there(await store.claim()).id == one.id
    latest = clock.now + timedelta(seconds=MAX_RETRY_DELAY_SECONDS)
    await store.finish_attempt(one.id, AttemptResult(State.QUEUED, error=FAILURE, not_before=latest))
    assert await store.claim() is None
    assert await store.next_due() == latest


async def test_retry_means_now(store: Store, clock: Clock) -> None:
    """Also for an import that has not failed for good: it waits no longer, and begins to count anew."""
    one = await brought_to(store, State.RUNNING)
    later = clock.now + timedelta(seconds=100)
    waiting = there(
        await store.finish_attempt(one.id, AttemptResult(State.QUEUED, error=FAILURE, not_before=later))
    )
    assert await store.claim() is None
    asked = there(await store.retry(one.id))
    assert (asked.state, asked.not_before, asked.error) == (State.QUEUED, None, None)
    assert (asked.retry_count, asked.progress, asked.version) == (0, PROGRESS, waiting.version + 1)
    assert await store.retry(one.id) is None  # it is due already
    assert there(await store.claim()).id == one.id


async def test_a_new_url_replaces_the_one_before_and_the_key_stays_that_of_the_first(store: Store) -> None:
    first = job("https://example.org/a?signature=1")
    submitted, _ = await store.submit(first, "key")
    await store.request_cancel(submitted.id)
    for number in (2, 3):
        source = f"https://example.org/a?signature={number}"
        asked = there(await store.retry(submitted.id, source))
        assert asked.job == msgspec.structs.replace(first, source=source)
        assert (await store.submit(first, "key"))[0].id == submitted.id
        with pytest.raises(IdempotencyConflict):
            await store.submit(asked.job, "key")
        assert there(await store.claim()).job.source == source
        await finished(store, submitted, State.FAILED)
    assert there(await store.retry(submitted.id)).job.source == source


async def test_only_a_failure_counts_as_a_retry_and_a_retry_asked_for_begins_anew(store: Store) -> None:
    one = await brought_to(store, State.RUNNING)
    suspended = await store.finish_attempt(
        one.id, AttemptResult(state=State.QUEUED, exit_code=75, error=None, log="the service stops")
    )
    assert there(suspended).retry_count == 0
    assert there(suspended).progress == PROGRESS  # what is staged stays staged
    await store.claim()
    failed_once = there(await finished(store, one, State.QUEUED))
    assert (failed_once.retry_count, failed_once.error) == (1, FAILURE)
    await store.claim()
    assert there(await finished(store, one, State.FAILED)).error == FAILURE
    asked = there(await store.retry(one.id))
    assert (asked.retry_count, asked.attempt_count, asked.error, asked.progress) == (0, 3, None, None)


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
async def test_what_was_rolled_back_leaves_no_progress(
    store: Store, phase: Phase, ending: AttemptResult, kept: bool
) -> None:
    one = await brought_to(store, State.RUNNING)
    await store.report(one.id, phase, PROGRESS)
    if ending.state is State.CANCELLED:
        await store.request_cancel(one.id)
    assert there(await store.finish_attempt(one.id, ending)).progress == (PROGRESS if kept else None)


async def test_an_end_that_is_no_failure_of_the_import_is_told_and_not_counted(store: Store) -> None:
    one = await brought_to(store, State.RUNNING)
    ended = there(
        await store.finish_attempt(one.id, AttemptResult(State.QUEUED, error=SERVICE_ENDED, is_retried=False))
    )
    assert (ended.retry_count, ended.error) == (0, SERVICE_ENDED)
    (attempt,) = await store.attempts(one.id)
    assert attempt.error == SERVICE_ENDED


async def test_rates_are_shown_only_while_a_loader_reports_them(store: Store) -> None:
    """One that is gone while its import is being cancelled, or that has only just been started, reports none."""
    one = await brought_to(store, State.RUNNING)
    assert schemas.Import.of(one).progress.bytes_per_second == PROGRESS.bytes_per_second
    queued = there(await finished(store, one, State.QUEUED))
    claimed = there(await store.claim())
    await store.request_cancel(one.id)
    cancelling = there(await store.show_cleanup_failure(one.id, FAILURE))
    for found in (queued, claimed, cancelling):
        shown = schemas.Import.of(found).progress
        assert (shown.bytes_per_second, shown.eta_seconds) == (None, None)
        assert shown.bytes_done == PROGRESS.bytes_done


async def test_a_claim_among_ten_thousand_looks_at_one(store: Store, path: Path) -> None:
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
    """Return how many instructions of SQLite's virtual machine a query takes."""
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


# What there is


async def test_what_was_written_is_read_back_the_same_after_a_restart(path: Path, clock: Clock) -> None:
    store = await Store.open(path, clock)
    one = await submitted(store)
    clock.advance(1)
    started = there(await store.claim())
    assert started.started_at == clock.now
    clock.advance(1)
    await finished(store, one, State.QUEUED)
    clock.advance(1)
    again = there(await store.claim())
    assert again.started_at == started.started_at
    await store.report(one.id, "publishing", PROGRESS)
    clock.advance(1)
    ended = there(await finished(store, one, State.SUCCEEDED))
    assert ended.receipt == receipt(one)
    assert (ended.finished_at, ended.phase, ended.progress) == (clock.now, None, PROGRESS)
    attempts = await store.attempts(one.id)
    begin = one.created_at
    seconds = [begin + timedelta(seconds=number) for number in range(5)]
    assert attempts == [
        Attempt(1, seconds[1], seconds[2], 70, FAILURE, "the end of stderr"),
        Attempt(2, seconds[3], seconds[4], 0, None, "the end of stderr"),
    ]
    await store.close()

    store = await Store.open(path, clock)
    assert await store.get(one.id) == ended
    assert await store.attempts(one.id) == attempts
    await store.close()


async def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    imports = [await submitted(store) for _ in range(5)]
    cancelled = there(await store.request_cancel(imports[2].id))
    newest = [imports[4], imports[3], cancelled, imports[1], imports[0]]
    first = await store.page(state=None, limit=3, before_sequence=None)
    assert first == newest[:3]
    assert await store.page(state=None, limit=3, before_sequence=first[-1].sequence) == newest[3:]
    assert await store.page(state=State.CANCELLED, limit=3, before_sequence=None) == [cancelled]
    assert await store.page(state=State.CANCELLED, limit=3, before_sequence=cancelled.sequence) == []
    assert await store.counts() == dict.fromkeys(State, 0) | {State.QUEUED: 4, State.CANCELLED: 1}


async def test_only_what_finished_before_is_pruned_and_its_attempts_with_it(
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
    assert await store.page(state=None, limit=10, before_sequence=None) == list(reversed(kept))
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT import_sequence FROM attempt ORDER BY 1").fetchall() == [
            (one.sequence,) for one in kept
        ]


# Waiting


async def test_all_who_wait_hear_of_a_change(store: Store) -> None:
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


async def test_who_waits_is_told_each_time_the_newest(store: Store) -> None:
    running = await brought_to(store, State.RUNNING)

    async def follow() -> list[int]:
        versions: list[int] = []
        found = running
        while found.state is not State.SUCCEEDED:
            found = there(await store.wait_for_change(found.id, found.version, FOREVER_SECONDS))
            versions.append(found.version)
        return versions

    following = asyncio.create_task(follow())
    for done in range(100):
        await store.report(running.id, "loading", msgspec.structs.replace(PROGRESS, bytes_done=done))
        read = there(await store.get(running.id))
        assert read.progress == Progress(**{**msgspec.structs.asdict(PROGRESS), "bytes_done": done})
    await finished(store, running, State.SUCCEEDED)
    versions = await following
    assert versions == sorted(set(versions))
    assert versions[-1] == running.version + 101


async def test_who_has_another_version_is_answered_at_once(store: Store) -> None:
    one = await submitted(store)
    for version in (one.version - 1, one.version + 1):  # one from before a power cut may be higher
        assert await store.wait_for_change(one.id, version, FOREVER_SECONDS) == one


async def test_an_import_that_does_not_change_is_returned_as_it_is(store: Store) -> None:
    one = await submitted(store)
    assert await store.wait_for_change(one.id, one.version, 0.05) == one


async def test_who_waits_for_an_import_that_is_removed_is_told(store: Store) -> None:
    removing = await brought_to(store, State.REMOVING)
    waiting = asyncio.create_task(store.wait_for_change(removing.id, removing.version, FOREVER_SECONDS))
    await asyncio.sleep(0)
    await store.delete(removing.id)
    assert await waiting is None
    assert await store.wait_for_change(removing.id, 1, FOREVER_SECONDS) is None
