"""What the control DB may refuse, or not be able to do; the API answers with the texts, `importer serve` ends with them."""

from __future__ import annotations

from uuid import UUID


class StoreError(Exception):
    """The control DB can't be used: what happened, where, what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StoreLocked(StoreError):
    """Another service uses it. Raised at start only."""


class StoreNewer(StoreError):
    """A newer version of this program has written it. Raised at start only."""


class StoreCorrupt(StoreError):
    """It is damaged, or no SQLite file. It is kept as it is."""


class StoreBusy(StoreError):
    """Another program holds a lock on it. Nothing was changed; the same call may soon succeed."""


class StoreFull(StoreError):
    """There is no room to write. Nothing was changed; reading goes on."""


class IdempotencyConflict(Exception):
    """The idempotency key came with another job before."""

    def __init__(self, import_id: UUID) -> None:
        super().__init__(f"The idempotency key belongs to import {import_id}, which has another body.")
        self.import_id = import_id
