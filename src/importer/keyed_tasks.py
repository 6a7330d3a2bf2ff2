"""Tasks that nobody awaits, at most one for each key. What one raises is a defect, and is logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable

import structlog

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class KeyedTasks:
    """The tasks that run. To be used in one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._is_stopped = False

    def begin(self, key: Hashable, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin the work, unless it is under way, or none is to begin any more."""
        if key in self._tasks or self._is_stopped:
            return
        task = self._tasks[key] = asyncio.create_task(work(), name=str(key))
        task.add_done_callback(lambda _: self._tasks.pop(key))
        task.add_done_callback(log_defect)

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


def log_defect(task: asyncio.Task[None]) -> None:
    """Log what a task that has ended raised: nobody awaits it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("defect", task=task.get_name(), exc_info=error)
