"""Tasks of the event loop: background tasks, their unhandled errors, and work that a cancellation does not interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import TypeVar

import structlog

R = TypeVar("R")

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class UnhandledErrors:
    """Errors of tasks that nobody awaits. The import of such a task would be stuck, so the service stops."""

    def __init__(self) -> None:
        self.seen = asyncio.Event()

    def check(self, task: asyncio.Task[None]) -> None:
        """Log the exception of a task that has ended, if it raised one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("unhandled error", task=task.get_name(), exc_info=error)
            self.seen.set()


class KeyedTasks:
    """The running tasks, at most one for each key. To be used in one event loop."""

    def __init__(self, errors: UnhandledErrors) -> None:
        self._errors = errors
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._is_stopped = False

    def start(self, key: Hashable, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Start the work, unless a task of this key runs or `stop` was called."""
        if key in self._tasks or self._is_stopped:
            return
        task = self._tasks[key] = asyncio.create_task(work(), name=str(key))
        task.add_done_callback(lambda _: self._tasks.pop(key))
        task.add_done_callback(self._errors.check)

    async def wait(self, timeout_seconds: float) -> None:
        """Wait until no task runs, at most for the timeout."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_seconds)

    async def stop(self, timeout_seconds: float) -> None:
        """Cancel all tasks, start no further ones, and wait for the cancelled ones, at most for the timeout."""
        self._is_stopped = True
        for task in self._tasks.values():
            task.cancel()
        await self.wait(timeout_seconds)


async def uninterrupted(work: Coroutine[None, None, R]) -> R:
    """Run `work` to its end and return its result. A cancellation in the meantime takes effect only after that."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
