"""How many requests of the kinds that last are served at a time, so that the others always find a way in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

from importer.problems import ProblemCode, RequestProblem

# A place is free when a client has left: streams are left by hand, downloads end.
_RETRY_SECONDS = 2


class Places:
    """So many places. To be used in one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count

    @contextmanager
    def taken(self) -> Generator[None]:
        """Hold a place; raises TOO_BUSY when there is none."""
        if not self._free:
            headers = {"Retry-After": str(_RETRY_SECONDS)}
            raise RequestProblem(ProblemCode.TOO_BUSY, "All places are taken at the moment.", headers=headers)
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
