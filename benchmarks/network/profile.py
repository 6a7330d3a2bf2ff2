"""What a slow way between server and client is: its shape, what has passed on it, and how to use one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Protocol

import msgspec

# Less than a round trip, and few enough marks for any file.
MARK_SECONDS = 0.05


class Shape(msgspec.Struct, frozen=True):
    """What happens to what a server sends."""

    bits_per_second: float
    round_trip_seconds: float
    send_buffer_bytes: int  # what the server holds for a connection until the client has acknowledged it
    loss: float = 0.0  # the share of packets that never arrive


class Traffic(msgspec.Struct, frozen=True):
    """What came through to the client since it was asked for last."""

    data_bytes: int
    bits_per_second: float  # of the middle 80 % of them: without the probe, slow start, and what is late


class Tally:
    """Counts what comes through."""

    def __init__(self) -> None:
        self._bytes = 0
        self._marks: list[tuple[float, int]] = []  # when so much had arrived

    def add(self, at: float, count: int) -> None:
        """Take note of bytes that arrive."""
        self._bytes += count
        if not self._marks or at - self._marks[-1][0] >= MARK_SECONDS:
            self._marks.append((at, self._bytes))

    def end(self) -> Traffic:
        """Return what was counted, and begin anew."""
        middle = [mark for mark in self._marks if 0.1 * self._bytes <= mark[1] <= 0.9 * self._bytes]
        rate = 0.0
        if len(middle) > 1:
            (began, before), (ended, after) = middle[0], middle[-1]
            rate = (after - before) * 8 / (ended - began)
        traffic = Traffic(self._bytes, rate)
        self._bytes, self._marks = 0, []
        return traffic


class Way(Protocol):
    """A slow way that is open."""

    @property
    def base_url(self) -> str:
        """Where the files are, seen from the client."""
        ...

    def from_client(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs a command at the client's end."""
        ...

    def traffic(self) -> Traffic:
        """Return what came through since this was asked last."""
        ...


def ask(process: subprocess.Popen[str]) -> str:
    """Send an empty line to a process; return the line that it answers with."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError(f"{process.args} was started without pipes")
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()
