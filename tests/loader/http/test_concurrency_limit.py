"""The limit falls when the server rejects requests, and rises as it responds."""

from __future__ import annotations

import contextlib
import threading

import pytest

from loader.cancellation import SourceClosed
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.concurrency_limit import ConcurrencyLimit
from loader.http.retry import TransientError
from tests.support.loader_process import wait_for

TURNED_AWAY = TransientError(
    LoaderError(FailureCode.SOURCE_UNREACHABLE, "It answers 503.", "Try again."), is_overloaded=True
)


def be_turned_away(admission: ConcurrencyLimit) -> None:
    with contextlib.suppress(TransientError), admission.slot():
        raise TURNED_AWAY


def most_at_once(admission: ConcurrencyLimit, closed: threading.Event) -> int:
    """Return how many may be under way at once: one more waits until the source is closed."""
    with contextlib.ExitStack() as stack:
        count = 0
        while True:
            entered = threading.Event()

            def enter(entered: threading.Event = entered) -> None:
                with contextlib.suppress(SourceClosed):
                    stack.enter_context(admission.slot())
                    entered.set()

            thread = threading.Thread(target=enter)
            thread.start()
            if not entered.wait(0.5):  # this one is not let in, however long one waits
                closed.set()
                thread.join()
                return count
            thread.join()
            count += 1


@pytest.mark.parametrize(("answers", "most"), [(2, 2), (15, 2), (16, 3), (64, 6), (1000, 6)])
def test_the_limit_falls_to_what_the_server_accepts_and_rises_with_successes(answers: int, most: int) -> None:
    closed = threading.Event()
    admission = ConcurrencyLimit(6, closed)
    with admission.slot(), admission.slot():
        be_turned_away(admission)
    for _ in range(answers - 2):
        with admission.slot():
            pass
    assert most_at_once(admission, closed) == most


def test_one_is_always_let_in() -> None:
    closed = threading.Event()
    admission = ConcurrencyLimit(2, closed)
    for _ in range(3):
        be_turned_away(admission)
    assert most_at_once(admission, closed) == 1


def test_a_wait_for_a_slot_ends_when_the_source_is_closed() -> None:
    closed = threading.Event()
    admission = ConcurrencyLimit(1, closed)
    ended = threading.Event()

    def wait_for_turn() -> None:
        with pytest.raises(SourceClosed), admission.slot():
            pass
        ended.set()

    with admission.slot():
        thread = threading.Thread(target=wait_for_turn)
        thread.start()
        closed.set()
        assert wait_for("its end", ended.is_set)
    thread.join()
