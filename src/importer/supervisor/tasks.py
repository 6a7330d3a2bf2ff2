"""Tasks that nobody awaits, at most one for each key. What one raises is a defect, and is not kept quiet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable

import structlog

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class UnhandledErrors:
    """What tasks raise that nobody awaits. Work stays undone then that others count on, and states say otherwise."""

    def __init__(self) -> None:
        self.seen = asyncio.Event()

    def look(self, task: asyncio.Task[None]) -> None:
        """Log what a task that has ended raised, if it did."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("defect", task=task.get_name(), exc_info=error)
            self.seen.set()


class KeyedTasks:
    """The tasks that run. To be used in one event loop."""

    def __init__(self, defects: UnhandledErrors) -> None:
        self._defects = defects
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._is_stopped = False

    def begin(self, key: Hashable, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin the work, unless it is under way, or none is to begin any more."""
        if key in self._tasks or self._is_stopped:
            return
        task = self._tasks[key] = asyncio.create_task(work(), name=str(key))
        task.add_done_callback(lambda _: self._tasks.pop(key))
        task.add_done_callback(self._defects.look)

    async def wait(self, timeout_seconds: float) -> None:
        """Wait until none runs, or for that long."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_seconds)

    async def stop(self, timeout_seconds: float) -> None:
        """Cancel them all, let none begin any more, and wait for their ends, or for that long."""
        self._is_stopped = True
        for task in self._tasks.values():
            task.cancel()
        await self.wait(timeout_seconds)
