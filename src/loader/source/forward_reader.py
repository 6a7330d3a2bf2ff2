"""Bytes by offset from a stream that only goes forward: held back what was looked at, skipped what is not wanted."""

from __future__ import annotations

from collections.abc import Callable

from loader.source.base import ended_early


class ForwardReader:
    """Reads a stream through its `readinto`, which returns 0 at the end, and may fill less than it is given."""

    def __init__(self, readinto: Callable[[memoryview], int], location: str) -> None:
        self._readinto = readinto
        self._location = location
        self._held = b""
        self._failure: Exception | None = None
        self.position = 0

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes without passing them; fewer at the end of the stream."""
        if len(self._held) < count:
            more = bytearray(count - len(self._held))
            filled = self._fill(memoryview(more))
            self._held += more[:filled]
        return self._held[:count]

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill `view` from `offset` on, which is not behind `position`; return how many bytes: fewer only at the end.

        Raises SOURCE_TRUNCATED where the end comes before `offset`: who asks for that knows that there was more.
        """
        if offset < self.position:
            raise ValueError(f"the stream is at {self.position} and can't go back to {offset}")
        while self.position < offset:
            # skipped bytes are overwritten by wanted ones
            if self._read(view[: offset - self.position]) == 0:
                raise ended_early(self._location, self.position, offset)
        return self._read(view)

    def _read(self, view: memoryview) -> int:
        held = min(len(view), len(self._held))
        view[:held] = self._held[:held]
        self._held = self._held[held:]
        count = held + self._fill(view[held:])
        self.position += count
        return count

    def _fill(self, view: memoryview) -> int:
        if self._failure is not None:  # what had been read of the failed fill is lost: there is no going on
            raise self._failure
        filled = 0
        try:
            while filled < len(view) and (count := self._readinto(view[filled:])):
                filled += count
        except Exception as error:
            self._failure = error
            raise
        return filled
