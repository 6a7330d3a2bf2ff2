"""Outgoing messages, shown by a thread: a reader that stops reading blocks nothing else."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from loader.contract import Message, ProgressMessage
from loader.errors import as_loader_error


class Outbox:
    """Shows messages in order. While the reader is slow, only the newest progress message is kept."""

    def __init__(self, show: Callable[[Message], None]) -> None:
        self._show = show
        self._changed = threading.Condition()
        self._messages: deque[Message] = deque()  # the first is being shown
        threading.Thread(target=self._work, name="outbox", daemon=True).start()

    def send(self, message: Message) -> None:
        """Queue a message; never blocks."""
        with self._changed:
            is_newer = isinstance(message, ProgressMessage) and len(self._messages) > 1
            if is_newer and isinstance(self._messages[-1], ProgressMessage):
                self._messages.pop()
            self._messages.append(message)
            self._changed.notify_all()

    def wait_until_shown(self, timeout_seconds: float) -> bool:
        """Wait until all messages are shown, at most for the time limit; return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._messages, timeout_seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._messages)
                message = self._messages[0]
            try:
                self._show(message)
            except OSError:  # the reader has exited: the exit code says how the run ended
                pass
            except Exception as error:  # a defect of the display does not end the run
                as_loader_error(error)
            with self._changed:
                self._messages.popleft()
                self._changed.notify_all()
