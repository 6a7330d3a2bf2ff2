"""Passes on changes of imports to the waiting requests, from memory: nothing is read for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

from importer.model import Import

ChangeQueue = asyncio.Queue[Import | None]  # the import after each change; None: it was deleted


class Notifier:
    """The subscriptions to imports. To be used in one event loop."""

    def __init__(self) -> None:
        self._subscriptions: defaultdict[UUID, set[ChangeQueue]] = defaultdict(set)

    def notify(self, import_id: UUID, changed: Import | None) -> None:
        """Pass on an import that has changed; None: it was deleted."""
        for changes in self._subscriptions.get(import_id, ()):
            changes.put_nowait(changed)

    @contextmanager
    def subscribe(self, import_id: UUID) -> Generator[ChangeQueue]:
        """Collect the changes of an import. Subscribe before reading the import, so that no change is missed."""
        changes = ChangeQueue()
        self._subscriptions[import_id].add(changes)
        try:
            yield changes
        finally:
            self._subscriptions[import_id].discard(changes)
            if not self._subscriptions[import_id]:
                del self._subscriptions[import_id]
