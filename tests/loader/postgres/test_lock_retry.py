"""An action that needs a lock is repeated with growing timeouts, and readers run between two tries."""

from __future__ import annotations

import pytest
from psycopg import errors as pg

from loader.cancellation import Interrupt
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres.connection import Connection
from loader.postgres.lock_retry import retry_while_locked
from tests.support.staged_import import publish_staged, stage


class Locked:
    """An action that fails some times, and notes the lock timeout of each try."""

    def __init__(self, connection: Connection, *errors: Exception) -> None:
        self._connection = connection
        self._errors = list(errors)
        self.timeouts: list[object] = []

    def __call__(self) -> None:
        self.timeouts += [timeout for (timeout,) in self._connection.execute("SHOW lock_timeout")]
        if self._errors:
            raise self._errors.pop(0)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time."""
    found: list[float] = []

    def sleep(_: Interrupt, seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(Interrupt, "sleep", sleep)
    return found


def test_each_try_waits_twice_as_long_up_to_a_limit(connection: Connection, pauses: list[float]) -> None:
    action = Locked(connection, *[pg.LockNotAvailable()] * 3, *[pg.DeadlockDetected()] * 2)
    retry_while_locked(connection, action, Interrupt(), 600)
    assert action.timeouts == ["1s", "2s", "4s", "8s", "8s", "8s"]
    assert pauses == [1, 2, 4, 8, 8]
    assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_after_its_budget_it_is_given_up(connection: Connection, pauses: list[float]) -> None:
    action = Locked(connection, pg.LockNotAvailable())
    with pytest.raises(LoaderError) as raised:
        retry_while_locked(connection, action, Interrupt(), 0)
    assert raised.value.code is FailureCode.TABLE_LOCKED
    assert pauses == []
    action = Locked(connection, pg.LockNotAvailable())
    retry_while_locked(connection, action, Interrupt(), 0.5)
    assert action.timeouts == ["500ms", "1s"]


def test_a_state_of_a_table_is_a_lock_only_while_a_detach_is_pending(
    connection: Connection, pauses: list[float]
) -> None:
    staged = stage(connection)
    publish_staged(connection, staged)
    state = pg.ObjectNotInPrerequisiteState()
    with pytest.raises(pg.ObjectNotInPrerequisiteState):
        retry_while_locked(connection, Locked(connection, state), Interrupt(), 600)
    assert pauses == []
    for child in (staged.table, staged.part_table(0)):
        pending = f"UPDATE pg_inherits SET inhdetachpending = {{}} WHERE inhrelid = '{child}'::regclass"
        connection.execute(pending.format(True).encode())
        retry_while_locked(connection, Locked(connection, state), Interrupt(), 600)
        connection.execute(pending.format(False).encode())
    assert pauses == [1, 1]
