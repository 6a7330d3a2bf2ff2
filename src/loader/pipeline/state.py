"""What the steps of a run share: its context, and what it knows of its import."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import msgspec

from loader.cancellation import Interrupt
from loader.contract import Job, Message
from loader.encoding.zones import DroppedZone
from loader.limits import Limits
from loader.pipeline.progress import Meter


class RunContext(msgspec.Struct, frozen=True):
    """What does not change during a run."""

    job: Job
    database_url: str
    interrupt: Interrupt
    meter: Meter
    send: Callable[[Message], None]
    limits: Limits
    is_supervised: bool


class ImportState(msgspec.Struct):
    """What a run knows of its import. Attempts write it; later attempts and the rollback read it."""

    import_id: UUID | None
    location: str | None  # as in the ledger; None: stdin
    is_owned: bool = False  # this run has locked the import, and the import is of this run's file
    is_resumable: bool = True  # an attempt can resume from what is committed
    is_readable_again: bool = True  # an attempt can read the source from its beginning
    data_bytes: int | None = None  # of a plain file without its header; None: not known
    committed_bytes: int = 0  # found by the last attempt
    rows_before: int = 0  # rows that the meter counted before the current attempt sent any
    # The first zone of a timestamp that was not stored, as far as this run has read the file.
    zone: DroppedZone | None = None
    # Attempts that sent rows and lost the database, since `committed_bytes` last grew.
    attempts_without_progress: int = 0
