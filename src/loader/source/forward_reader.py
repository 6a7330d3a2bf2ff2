"""Bytes by offset from a stream that only goes forward. Peeked bytes are kept; bytes before the offset are skipped."""

from __future__ import annotations

from collections.abc import Callable

from loader.source.base import truncated_error


class ForwardReader:
    """Reads a stream through its `readinto`, which returns 0 at the end, and may fill only a part of its argument."""

    def __init__(self, readinto: Callable[[memoryview], int], location: str) -> None:
        self._readinto = readinto
        self._location = location
        self._held = b""
        self._failure: Exception | None = None
        self.position = 0

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes without consuming them; fewer at the end of the stream."""
        if len(self._held) < count:
            more = bytearray(count - len(self._held))
            filled = self._fill(memoryview(more))
            self._held += more[:filled]
        return self._held[:count]

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill `view` from `offset` on, which is at least `position`; return how many bytes: fewer only at the end.

        Raises SOURCE_TRUNCATED when the stream ends before `offset`: the caller knows that the file had more.
        """
        if offset < self.position:
            raise ValueError(f"the stream is at {self.position} and can't go back to {offset}")
        while self.position < offset:
            # later reads overwrite the skipped bytes
            if self._read(view[: offset - self.position]) == 0:
                raise truncated_error(self._location, self.position, offset)
        return self._read(view)

    def _read(self, view: memoryview) -> int:
        held = min(len(view), len(self._held))
        view[:held] = self._held[:held]
        self._held = self._held[held:]
        count = held + self._fill(view[held:])
        self.position += count
        return count

    def _fill(self, view: memoryview) -> int:
        if self._failure is not None:  # the bytes of the failed fill are lost, so no later read can be right
            raise self._failure
        filled = 0
        try:
            while filled < len(view) and (count := self._readinto(view[filled:])):
                filled += count
        except Exception as error:
            self._failure = error
            raise
        return filled
