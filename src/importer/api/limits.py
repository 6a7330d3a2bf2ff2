"""How many requests of the kinds that last are served at a time, so that the others always find a way in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

from importer.api.problems import ProblemCode, RequestProblem


class ConcurrencyLimit:
    """So many places. To be used in one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count

    @contextmanager
    def taken(self) -> Generator[None]:
        """Hold a place; raises TOO_BUSY when there is none."""
        if not self._free:
            raise RequestProblem(ProblemCode.TOO_BUSY, "All places are taken at the moment.")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def begun(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Return the stream with its first piece made already: what goes wrong until then can be answered with a problem."""
    first = await anext(pieces)

    async def stream() -> AsyncGenerator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return stream()
