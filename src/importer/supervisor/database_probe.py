"""Whether the target database can be used: asked by the service in one place, for the queue, readiness and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from importer.supervisor.ledger import LedgerReader
from loader.contract import Failure
from loader.errors import LoaderError

# Whoever asks within this time gets the answer that is there: any number of clients costs one connection a second.
FRESH_SECONDS = 1.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class DatabaseProbe:
    """The latest answer of one target database. To be used in one event loop."""

    def __init__(self, database_url: str, on_change: Callable[[], None]) -> None:
        """`on_change` is called whenever `is_up` has changed."""
        self._ledger = LedgerReader(database_url)  # of its own: no other question delays this one
        self._on_change = on_change
        self._look: asyncio.Task[Failure | None] | None = None
        self._asked_at = float("-inf")
        self._is_up: bool | None = None  # None: before the first look has ended

    @property
    def is_up(self) -> bool:
        """Whether the latest look found that the database can be used."""
        return self._is_up is True

    async def look(self, max_age_seconds: float = FRESH_SECONDS) -> Failure | None:
        """Return why the database can't be used, None if it can, as a look found that is not older than this.

        One look at a time serves all callers; it takes as long as LedgerReader waits for an answer, at most.
        """
        oldest = time.monotonic() - max_age_seconds
        while self._look is None or self._asked_at < oldest:
            if self._look is None or self._look.done():
                self._asked_at = time.monotonic()
                self._look = asyncio.create_task(self._ask())
            else:
                await asyncio.shield(self._look)
        # shielded: one caller that leaves must not end it for the others
        return await asyncio.shield(self._look)

    def stop(self) -> None:
        """End the look that is under way."""
        if self._look is not None:
            self._look.cancel()

    async def _ask(self) -> Failure | None:
        failure = None
        try:
            await self._ledger.require_primary()
        except LoaderError as error:
            failure = error.failure
        if self._is_up is not (failure is None):
            self._is_up = failure is None
            if failure is None:
                log.info("database available")
            else:
                log.warning("database unavailable", error=failure.message)
            self._on_change()
        return failure
