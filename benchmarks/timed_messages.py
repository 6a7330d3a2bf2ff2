"""A loader's messages with the time at which each arrived."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import msgspec

from loader.contract import Message, ProgressMessage

TimedMessage = tuple[float, Message]  # time by perf_counter


@contextmanager
def timed_messages() -> Generator[tuple[int, list[TimedMessage]]]:
    """Yield a file descriptor for a loader's stdout, and the list of its messages, complete when the context ends."""
    read_end, write_end = os.pipe()
    messages: list[TimedMessage] = []

    def read() -> None:
        with os.fdopen(read_end, "rb") as lines:
            messages.extend((time.perf_counter(), msgspec.json.decode(line, type=Message)) for line in lines)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield write_end, messages
    finally:
        os.close(write_end)
        thread.join()


def phase_start(messages: Sequence[TimedMessage], phase: str) -> float:
    """Return when the first message of a phase arrived."""
    return next(
        at for at, message in messages if isinstance(message, ProgressMessage) and message.phase == phase
    )
