"""Delays between two attempts, and retries of calls to a control DB that can't be used."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import structlog

from importer.store.errors import StoreError

R = TypeVar("R")

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# Doubled after each attempt, up to the maximum: the database that is waited for may be back at any time.
_FIRST_DELAY_SECONDS = 1.0
_MAX_DELAY_SECONDS = 30.0
# A full disk, or another program's lock on the control DB.
_STORE_DELAY_SECONDS = 1.0


def delays() -> Iterator[float]:
    """Yield the seconds to wait before each next attempt, without end."""
    seconds = _FIRST_DELAY_SECONDS
    while True:
        yield jittered(seconds)
        seconds = min(2 * seconds, _MAX_DELAY_SECONDS)


def jittered(seconds: float) -> float:
    """Return a random part, half to all, so that attempts that failed together are not repeated together."""
    return seconds * random.uniform(0.5, 1)  # noqa: S311 - not for security


async def until_stored(call: Callable[[], Awaitable[R]]) -> R:
    """Return the result of a call to the store; repeat it until the control DB can be used."""
    while True:
        try:
            return await call()
        except StoreError as error:
            log.error("control DB unusable", error=error.message, hint=error.hint)
        await asyncio.sleep(_STORE_DELAY_SECONDS)
