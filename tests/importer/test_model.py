"""Imports follow TRANSITIONS: every pair of states, and random sequences of calls by Hypothesis."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from importer.model import (
    FINISHED,
    MAX_RETRY_DELAY_SECONDS,
    TRANSITIONS,
    AttemptResult,
    Import,
    State,
    can_transition,
)
from importer.store.errors import IdempotencyConflict
from importer.store.store import Store
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

R = TypeVar("R")

Operation = Callable[[Store, Import], Awaitable[Import | None]]


def ending(state: State) -> Operation:
    return lambda store, one: finished(store, one, state)


# All calls that could bring an import to a state.
OPERATIONS: dict[State, list[Operation]] = {
    State.QUEUED: [ending(State.QUEUED), lambda store, one: store.retry(one.id)],
    State.RUNNING: [ending(State.RUNNING), lambda store, _: store.claim()],
    State.CANCELLING: [ending(State.CANCELLING), lambda store, one: store.request_cancel(one.id)],
    State.SUCCEEDED: [
        ending(State.SUCCEEDED),
        lambda store, one: store.mark_published(one.id, receipt(one)),
        lambda store, one: store.mark_published(one.id, receipt(one), State.REMOVING),
    ],
    State.FAILED: [ending(State.FAILED)],
    State.CANCELLED: [ending(State.CANCELLED), lambda store, one: store.request_cancel(one.id)],
    State.REMOVING: [
        ending(State.REMOVING),
        lambda store, one: store.request_removal(one.id, drops_rows=True),
    ],
}


async def queued_again(store: Store) -> Import:
    return existing(await finished(store, await brought_to(store, State.RUNNING), State.QUEUED))


async def cancelled_before_it_ran(store: Store) -> Import:
    return existing(await store.request_cancel((await submitted(store)).id))


def ways_to(state: State) -> list[Callable[[Store], Coroutine[object, object, Import]]]:
    more = {State.QUEUED: [queued_again], State.CANCELLED: [cancelled_before_it_ran]}
    return [lambda store: brought_to(store, state), *more.get(state, [])]


@pytest.mark.anyio
@pytest.mark.parametrize("target", State)
@pytest.mark.parametrize("origin", State)
async def test_only_the_listed_transitions_change_an_import(
    tmp_path: Path, origin: State, target: State
) -> None:
    reached: set[State] = set()
    for number, (way, operation) in enumerate(itertools.product(ways_to(origin), OPERATIONS[target])):
        store = await Store.open(tmp_path / f"{number}.db")
        before = await way(store)
        assert before.state is origin
        answer = await operation(store, before)
        after = existing(await store.get(before.id))
        if after == before:  # refused; a second cancel returns the import
            assert answer is None or (answer == before and origin is State.CANCELLING)
        else:
            assert answer == after
            assert (origin, after.state) in TRANSITIONS
            assert after.version == before.version + 1
            reached.add(after.state)
        await store.close()
    assert (target in reached) == can_transition(origin, target)


@pytest.mark.anyio
@pytest.mark.parametrize("state", State)
async def test_only_an_import_that_is_being_removed_can_be_deleted(tmp_path: Path, state: State) -> None:
    store = await Store.open(tmp_path / "control.db")
    one = await brought_to(store, state)
    assert await store.delete(one.id) == (state is State.REMOVING)
    assert await store.get(one.id) == (None if state is State.REMOVING else one)
    await store.close()


@pytest.mark.anyio
@pytest.mark.parametrize("state", State)
async def test_progress_is_recorded_only_while_a_loader_may_run(tmp_path: Path, state: State) -> None:
    store = await Store.open(tmp_path / "control.db")
    one = await brought_to(store, state)
    after = await store.report(one.id, "publishing", PROGRESS)
    if state in (State.RUNNING, State.CANCELLING):
        assert existing(after).phase == "publishing"
        assert existing(after).progress == PROGRESS
    else:
        assert after is None
        assert await store.get(one.id) == one
    await store.close()


@pytest.mark.anyio
@pytest.mark.parametrize("state", State)
async def test_a_cleanup_failure_is_shown_until_the_cleanup_succeeds(tmp_path: Path, state: State) -> None:
    store = await Store.open(tmp_path / "control.db")
    one = await brought_to(store, state)
    after = await store.show_cleanup_failure(one.id, FAILURE)
    if state in (State.CANCELLING, State.REMOVING):
        assert (existing(after).state, existing(after).phase, existing(after).error) == (state, None, FAILURE)
    else:
        assert after is None
        assert await store.get(one.id) == one
    if state is State.CANCELLING:
        assert existing(await finished(store, one, State.CANCELLED)).error is None
    await store.close()


def test_every_state_can_be_reached() -> None:
    reached = {State.QUEUED}
    while more := {target for origin, target in TRANSITIONS if origin in reached} - reached:
        reached |= more
    assert reached == set(State)


def test_a_succeeded_import_can_only_be_removed() -> None:
    assert {target for origin, target in TRANSITIONS if origin is State.SUCCEEDED} == {State.REMOVING}


class ImportModel(msgspec.Struct):
    """The expected import."""

    sequence: int
    source: str
    key: str | None
    state: State = State.QUEUED
    version: int = 1
    attempts: int = 0
    retries: int = 0
    loader_runs: bool = False
    not_before: datetime | None = None
    has_failed: bool = False  # queued after a failed attempt
    finished_at: datetime | None = None

    def is_due(self, now: datetime) -> bool:
        if self.state is not State.QUEUED:
            return False
        latest = now + timedelta(seconds=MAX_RETRY_DELAY_SECONDS)
        return self.not_before is None or not now < self.not_before <= latest


class ImportMachine(RuleBasedStateMachine):
    """Random calls on any number of imports, compared with a simple model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.models: dict[UUID, ImportModel] = {}
        self.last_sequence = 0
        self.store = self.run(Store.open(self.folder / "control.db", self.clock))

    def run(self, work: Coroutine[object, object, R]) -> R:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def expect(
        self, one: UUID, answer: Import | None, target: State, origins: tuple[State, ...] | frozenset[State]
    ) -> ImportModel | None:
        """Check the answer and apply the transition to the model; return the import's model if it moved."""
        model = self.models[one]
        if model.state not in origins:
            assert answer is None
            return None
        assert answer is not None
        assert answer.state is target
        assert model.state is target or (model.state, target) in TRANSITIONS
        model.state = target
        model.version += 1
        model.not_before, model.has_failed = None, False
        model.finished_at = self.clock.now if target in FINISHED else model.finished_at
        return model

    def end(
        self, one: UUID, state: State, origins: tuple[State, ...], answer: Import | None
    ) -> ImportModel | None:
        model = self.expect(one, answer, state, origins)
        if model is not None:
            model.loader_runs = False
        return model

    def pick(self, number: int) -> UUID | None:
        ids = list(self.models)
        return ids[number % len(ids)] if ids else None

    @rule(key=st.sampled_from([None, None, None, "a", "b"]), source=st.sampled_from(["/x", "/y"]))
    def submit(self, key: str | None, source: str) -> None:
        twin = next((one for one, model in self.models.items() if key and model.key == key), None)
        if twin is not None and self.models[twin].source != source:
            with pytest.raises(IdempotencyConflict) as conflict:
                self.run(self.store.submit(job(source), key))
            assert conflict.value.import_id == twin
            return
        found, created = self.run(self.store.submit(job(source), key))
        assert created == (twin is None)
        if created:
            assert found.sequence > self.last_sequence  # never reused after a removal
            self.last_sequence = found.sequence
            self.models[found.id] = ImportModel(found.sequence, source, key)
        else:
            assert found.id == twin
            assert found.job.source == source

    @rule()
    def start(self) -> None:
        due = [one for one, model in self.models.items() if model.is_due(self.clock.now)]
        answer = self.run(self.store.claim())
        assert (answer and answer.id) == (due[0] if due else None)
        if answer is not None:
            model = self.expect(answer.id, answer, State.RUNNING, (State.QUEUED,))
            assert model is not None
            model.attempts += 1
            model.loader_runs = True

    @rule(number=st.integers(0))
    def progress(self, number: int) -> None:
        if one := self.pick(number):
            answer = self.run(self.store.report(one, "loading", PROGRESS))
            self.expect(one, answer, self.models[one].state, (State.RUNNING, State.CANCELLING))

    @rule(number=st.integers(0))
    def cancel(self, number: int) -> None:
        if one := self.pick(number):
            answer = self.run(self.store.request_cancel(one))
            if self.models[one].state is State.CANCELLING:
                assert answer is not None
                assert answer.version == self.models[one].version
            else:
                target = State.CANCELLING if self.models[one].attempts else State.CANCELLED
                self.expect(one, answer, target, (State.QUEUED, State.RUNNING))

    @rule(number=st.integers(0), delay=st.integers(0, 100))
    def die(self, number: int, delay: int) -> None:
        if one := self.pick(number):
            not_before = self.clock.now + timedelta(seconds=delay)
            answer = self.run(
                self.store.finish_attempt(
                    one, AttemptResult(state=State.QUEUED, exit_code=-9, error=FAILURE, not_before=not_before)
                )
            )
            if model := self.end(one, State.QUEUED, (State.RUNNING,), answer):
                model.retries += 1
                model.not_before, model.has_failed = not_before, True

    @rule(number=st.integers(0))
    def suspend(self, number: int) -> None:
        if one := self.pick(number):
            answer = self.run(self.store.finish_attempt(one, AttemptResult(state=State.QUEUED, exit_code=75)))
            self.end(one, State.QUEUED, (State.RUNNING,), answer)

    @rule(number=st.integers(0))
    def succeed(self, number: int) -> None:
        if one := self.pick(number):
            proof = receipt(existing(self.run(self.store.get(one))))
            answer = self.run(
                self.store.finish_attempt(
                    one, AttemptResult(state=State.SUCCEEDED, exit_code=0, receipt=proof)
                )
            )
            if self.end(one, State.SUCCEEDED, (State.RUNNING, State.CANCELLING), answer):
                assert existing(answer).receipt == proof

    @rule(number=st.integers(0))
    def fail(self, number: int) -> None:
        if one := self.pick(number):
            answer = self.run(
                self.store.finish_attempt(one, AttemptResult(state=State.FAILED, exit_code=65, error=FAILURE))
            )
            self.end(one, State.FAILED, (State.RUNNING, State.CANCELLING), answer)

    @rule(number=st.integers(0))
    def find_published(self, number: int) -> None:
        if one := self.pick(number):
            proof = receipt(existing(self.run(self.store.get(one))))
            answer = self.run(self.store.mark_published(one, proof))
            if self.expect(one, answer, State.SUCCEEDED, (State.FAILED,)):
                assert existing(answer).receipt == proof
                assert existing(answer).error is None

    @rule(number=st.integers(0))
    def roll_back(self, number: int) -> None:
        if one := self.pick(number):
            answer = self.run(
                self.store.finish_attempt(
                    one, AttemptResult(state=State.CANCELLED, exit_code=143, error=FAILURE)
                )
            )
            self.end(one, State.CANCELLED, (State.CANCELLING,), answer)

    @rule(number=st.integers(0))
    def retry(self, number: int) -> None:
        if one := self.pick(number):
            answer = self.run(self.store.retry(one))
            origins = (
                State.FAILED,
                State.CANCELLED,
                *([State.QUEUED] if self.models[one].has_failed else []),
            )
            if model := self.expect(one, answer, State.QUEUED, origins):
                model.retries = 0

    @rule(number=st.integers(0))
    def remove(self, number: int) -> None:
        if one := self.pick(number):
            self.expect(
                one, self.run(self.store.request_removal(one, drops_rows=True)), State.REMOVING, FINISHED
            )

    @rule(number=st.integers(0))
    def delete(self, number: int) -> None:
        if one := self.pick(number):
            gone = self.run(self.store.delete(one))
            assert gone == (self.models[one].state is State.REMOVING)
            if gone:
                del self.models[one]

    @rule(age=st.integers(0, 200))
    def prune(self, age: int) -> None:
        older_than = self.clock.now - timedelta(seconds=age)
        old = [
            one
            for one, model in self.models.items()
            if model.state in FINISHED and model.finished_at is not None and model.finished_at < older_than
        ]
        assert self.run(self.store.prune(older_than)) == len(old)
        for one in old:
            del self.models[one]

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)
        later = [model.not_before for model in self.models.values() if not model.is_due(self.clock.now)]
        assert self.run(self.store.next_due()) == min(filter(None, later), default=None)

    @rule(seconds=st.sampled_from([-1000, 1000]))
    def the_clock_is_set(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.store = self.run(Store.open(self.folder / "control.db", self.clock))
        unfinished = (State.RUNNING, State.CANCELLING, State.REMOVING)
        assert [one.id for one in self.run(self.store.unfinished())] == [
            one for one, model in self.models.items() if model.state in unfinished
        ]

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        found = self.run(self.store.page(limit=1000, before_sequence=None))
        assert [one.id for one in found] == list(reversed(self.models))
        for one in found:
            model = self.models[one.id]
            assert (one.sequence, one.state, one.version) == (model.sequence, model.state, model.version)
            assert (one.attempt_count, one.retry_count) == (model.attempts, model.retries)
            assert one.not_before == model.not_before
            attempts = self.run(self.store.attempts(one.id))
            assert [attempt.number for attempt in attempts] == list(range(1, model.attempts + 1))
            running = [attempt.number for attempt in attempts if attempt.finished_at is None]
            assert running == ([model.attempts] if model.loader_runs else [])
        counts = self.run(self.store.counts())
        assert counts == {
            state: sum(model.state is state for model in self.models.values()) for state in State
        }


TestImports = ImportMachine.TestCase
TestImports.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
