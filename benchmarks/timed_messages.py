"""A loader's messages, and when each came."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from loader.wire import Message

TimedMessage = tuple[float, Message]  # by perf_counter


@contextmanager
def timed_messages() -> Generator[tuple[int, list[TimedMessage]]]:
    """Yield a file descriptor for a loader's stdout, and a list of when which message came; whole when this ends."""
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
