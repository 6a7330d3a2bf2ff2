"""Who waits for which import to change. Pure: nothing is read for it, whoever changes an import tells."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

from importer.model import Import

Told = asyncio.Queue[Import | None]  # the import after each change; None: it is gone


class Notifier:
    """Takes what changed to those who wait for it. To be used in one event loop."""

    def __init__(self) -> None:
        self._waiting: defaultdict[UUID, set[Told]] = defaultdict(set)

    def tell(self, import_id: UUID, changed: Import | None) -> None:
        """Tell that an import has changed, or is gone (None)."""
        for told in self._waiting.get(import_id, ()):
            told.put_nowait(changed)

    @contextmanager
    def of(self, import_id: UUID) -> Generator[Told]:
        """Gather what is told of an import. To be entered before looking at it: then no change falls between."""
        told = Told()
        self._waiting[import_id].add(told)
        try:
            yield told
        finally:
            self._waiting[import_id].discard(told)
            if not self._waiting[import_id]:
                del self._waiting[import_id]
