"""How the messages of a run are shown: as JSON, as lines, as a progress bar, or only the last one."""

from __future__ import annotations

import abc
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from loader import contract
from loader.cli.formatting import failure_text, numbers_text, percent_text, probed_text, receipt_text
from loader.contract import Failed, Message, Probed, ProgressMessage, Published
from loader.text import json_line

# Between two lines of one phase: often enough to see that it goes on, few enough to read the log of an hour.
_LINE_INTERVAL_SECONDS = 10.0


class Display(Protocol):
    """Shows the messages of a run."""

    def show(self, message: Message) -> None:
        """Show a message. It is called in one thread and may block."""
        ...


class JsonDisplay:
    """Writes one JSON object a line to stdout."""

    def show(self, message: Message) -> None:
        """Write the message and flush."""
        sys.stdout.buffer.write(json_line(message))
        sys.stdout.buffer.flush()


class QuietDisplay:
    """Writes only the result: the receipt to stdout, or the failure to stderr."""

    def show(self, message: Message) -> None:
        """Show the message if it is the last one."""
        if isinstance(message, Published):
            sys.stdout.write(receipt_text(message.receipt) + "\n")
        elif isinstance(message, Failed):
            sys.stderr.write(failure_text(message) + "\n")


class ProgressDisplay(QuietDisplay, abc.ABC):
    """Shows the progress on stderr, then the result. How it is drawn is left to its subclasses."""

    def show(self, message: Message) -> None:
        """Show a message."""
        if isinstance(message, Probed):
            self.note(probed_text(message))
        elif isinstance(message, ProgressMessage):
            self.draw(message.phase.replace("_", " "), message.progress)
        elif isinstance(message, Published | Failed):
            self.stop()
            super().show(message)

    @abc.abstractmethod
    def note(self, text: str) -> None:
        """Write lines that stay."""

    @abc.abstractmethod
    def draw(self, description: str, progress: contract.Progress | None) -> None:
        """Show the current phase and its progress."""

    def stop(self) -> None:
        """Stop drawing: the result follows."""


class LineDisplay(ProgressDisplay):
    """Writes a line at each phase, and every ten seconds: for logs, pipes and files."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._description = ""
        self._next_line_at = 0.0

    def note(self, text: str) -> None:
        """Write lines with the time."""
        sys.stderr.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}\n")
        sys.stderr.flush()

    def draw(self, description: str, progress: contract.Progress | None) -> None:
        """Write a line if the phase is new or the last line is old."""
        now = self._clock()
        if description == self._description and now < self._next_line_at:
            return
        self._description, self._next_line_at = description, now + _LINE_INTERVAL_SECONDS
        is_known = progress is not None and (progress.bytes_total is not None or progress.bytes_done)
        numbers = (
            [percent_text(progress), numbers_text(progress)] if progress is not None and is_known else []
        )
        self.note(" ".join([description, *filter(None, numbers)]))
