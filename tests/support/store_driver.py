"""Brings imports of a real store to any state by the store's own calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import uuid_utils.compat

from importer.model import FINISHED, AttemptResult, Import, State
from importer.store.store import Store
from loader.contract import Failure, FailureCode, Job, Progress, Receipt

RECEIPT = Receipt(
    import_id="0190b2c4-0000-7000-8000-000000000000",
    import_key=1,
    source="https://example.org/trips.csv",
    validator='"1"',
    source_bytes=10,
    data_bytes=10,
    length_verified=True,
    blocks=1,
    parts=1,
    rows_parsed=3,
    rows_copied=3,
    rows_published=3,
    rows_rejected=0,
    attempts=1,
    seconds=0.5,
    published_at="2024-02-01T12:00:00+00:00",
)
PROGRESS = Progress(
    bytes_done=5,
    bytes_total=10,
    percent=50.0,
    rows_loaded=3,
    rows_rejected=0,
    bytes_per_second=1.5,
    rows_per_second=None,
    eta_seconds=3.0,
)
FAILURE = Failure(
    FailureCode.DATABASE_UNAVAILABLE, "The database can't be reached.", "Start it.", retryable=True
)


class Clock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self.now = datetime(2024, 2, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


def job(source: str = "https://user:secret@example.org/trips.csv?signature=1") -> Job:
    return Job(source=source, import_id=str(uuid_utils.compat.uuid7()))


def receipt(of: Import) -> Receipt:
    return msgspec.structs.replace(RECEIPT, import_id=str(of.id))


async def submitted(store: Store) -> Import:
    return (await store.submit(job(), None))[0]


async def finished(store: Store, one: Import, state: State) -> Import | None:
    """Finish an import's attempt with what this state requires."""
    return await store.finish_attempt(
        one.id,
        AttemptResult(
            state=state,
            exit_code=0 if state is State.SUCCEEDED else 70,
            error=FAILURE if state in (State.QUEUED, State.FAILED) else None,
            log="the end of stderr",
            receipt=receipt(one) if state is State.SUCCEEDED else None,
        ),
    )


async def brought_to(store: Store, state: State) -> Import:
    """Submit an import to a store with an empty queue and bring it to this state."""
    one = await submitted(store)
    if state is State.QUEUED:
        return one
    claimed = existing(await store.claim())
    assert claimed.id == one.id
    one = existing(await store.report(one.id, "loading", PROGRESS))
    if state in (State.CANCELLING, State.CANCELLED):
        one = existing(await store.request_cancel(one.id))
    if state in FINISHED:
        one = existing(await finished(store, one, state))
    if state is State.REMOVING:
        await finished(store, one, State.SUCCEEDED)
        one = existing(await store.request_removal(one.id, drops_rows=True))
    return one


def existing(found: Import | None) -> Import:
    assert found is not None
    return found
