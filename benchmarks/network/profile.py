"""The profile of an emulated network, how it is used, and what passed through it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Protocol

import msgspec

# Shorter than a round trip, and few samples for any file.
SAMPLE_INTERVAL_SECONDS = 0.05


class NetworkProfile(msgspec.Struct, frozen=True):
    """What the network does to the bytes that the server sends."""

    bits_per_second: float
    round_trip_seconds: float
    send_buffer_bytes: int  # the most bytes of a connection that may wait for an acknowledgement
    loss: float = 0.0  # the share of packets that are dropped


class Traffic(msgspec.Struct, frozen=True):
    """What the client received since the last query."""

    data_bytes: int
    bits_per_second: (
        float  # over the middle 80 % of the bytes, which leaves out the probe, slow start and stragglers
    )


class TrafficCounter:
    """Counts what the client receives."""

    def __init__(self) -> None:
        self._bytes = 0
        self._samples: list[tuple[float, int]] = []  # time, and bytes received until then

    def add(self, at: float, count: int) -> None:
        """Count bytes that arrived at a time."""
        self._bytes += count
        if not self._samples or at - self._samples[-1][0] >= SAMPLE_INTERVAL_SECONDS:
            self._samples.append((at, self._bytes))

    def take(self) -> Traffic:
        """Return what was counted, and start over."""
        middle = [sample for sample in self._samples if 0.1 * self._bytes <= sample[1] <= 0.9 * self._bytes]
        rate = 0.0
        if len(middle) > 1:
            (started, before), (ended, after) = middle[0], middle[-1]
            rate = (after - before) * 8 / (ended - started)
        traffic = Traffic(self._bytes, rate)
        self._bytes, self._samples = 0, []
        return traffic


class EmulatedNetwork(Protocol):
    """A slow network with a file server at its other end."""

    @property
    def base_url(self) -> str:
        """The file server's URL, as the client reaches it."""
        ...

    def client_command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs a command at the client's end."""
        ...

    def traffic(self) -> Traffic:
        """Return what the client received since the last call."""
        ...


def query(process: subprocess.Popen[str]) -> str:
    """Send an empty line to a process; return the line that it replies with."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError(f"{process.args} was started without pipes")
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()
