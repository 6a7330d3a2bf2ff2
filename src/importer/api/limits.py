"""How many long-lasting requests of one kind the service serves at a time, so that connections are left for others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import TypeVar

from importer.api.problems import ProblemCode, RequestProblem

T = TypeVar("T")


class RequestLimit:
    """A number of slots. To be used in one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count

    @contextmanager
    def acquire(self) -> Generator[None]:
        """Hold a slot; raises TOO_BUSY when none is free."""
        if not self._free:
            raise RequestProblem(ProblemCode.TOO_BUSY, "Too many concurrent requests of this kind.")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def prefetch_first_chunk(chunks: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Return the stream after its first chunk is made, so that an error until then becomes a problem response."""
    first = await anext(chunks)

    async def stream() -> AsyncGenerator[T]:
        yield first
        async for chunk in chunks:
            yield chunk

    return stream()
