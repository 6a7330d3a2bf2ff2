"""What clients send and see: the JSON of the API as structs, and how an import of the control DB becomes one of them.

The descriptions are those of the OpenAPI document. An address is shown without credentials and query, times are UTC.
"""

from __future__ import annotations

import datetime
import enum
from typing import Annotated, Self
from uuid import UUID

import msgspec
from msgspec import Meta

from importer.model import Attempt as StoredAttempt
from importer.model import Import as StoredImport
from importer.model import State
from loader import contract
from loader.contract import Job
from loader.http.url import parse_address

# Signed addresses have some hundred characters; RFC 9110, 4.1, asks for at least 8,000 to be supported.
MAX_URL = 8_000
MAX_WORKERS = 64


class Mode(enum.StrEnum):
    """What becomes of the rows that trips holds already."""

    APPEND = "append"
    REPLACE = "replace"


class Phase(enum.StrEnum):
    """What a loader is doing."""

    PROBING = "probing"
    LOADING = "loading"
    INDEXING = "indexing"
    PUBLISHING = "publishing"
    ROLLING_BACK = "rolling_back"


SourceUrl = Annotated[
    str,
    Meta(
        description="Where the CSV is, plain, gzip or zstd: http or https. Credentials and query are used, never shown.",
        min_length=1,
        max_length=MAX_URL,
        examples=["https://example.org/fhvhv_tripdata_2024-01.csv"],
        extra_json_schema={"format": "uri"},
    ),
]


class NewImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file to import, and how."""

    url: SourceUrl
    mode: Annotated[
        Mode, Meta(description="Add to trips, or replace all that it holds at the moment of publish.")
    ] = Mode.APPEND
    max_rejects: Annotated[
        Annotated[int, Meta(ge=0, le=2**53)]
        | Annotated[str, Meta(pattern=r"^([0-9]{1,15}|([0-9]{1,2}(\.[0-9]{1,6})?|100)%)(?!\n)$")],
        Meta(
            description="How many rows may be set aside: a count, or a percentage of all rows as text.",
            examples=[0, "0.5%"],
        ),
    ] = 0
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_WORKERS)] | None,
        Meta(description="Connections that load at a time; null: the service's choice."),
    ] = None
    force: Annotated[bool, Meta(description="Import even if this very file is published already.")] = False
    require_verified_length: Annotated[
        bool, Meta(description="Refuse a file whose end nothing announces: it could be cut off unseen.")
    ] = False

    def job(self, import_id: UUID) -> Job:
        """Return the job as the control DB keeps it."""
        return Job(
            source=self.url,
            import_id=str(import_id),
            mode="replace" if self.mode is Mode.REPLACE else "append",
            workers=self.workers,
            max_rejects=str(self.max_rejects),
            force=self.force,
            require_verified_length=self.require_verified_length,
        )


class RetryImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change when an import is tried again. What is left out stays as it is."""

    url: Annotated[
        SourceUrl | None,
        Meta(description="Another URL of the same file, such as one with a new signature; null: as before."),
    ] = None


class Progress(msgspec.Struct, frozen=True):
    """Where an import stands. Null is what is not known; nothing is invented."""

    bytes_done: Annotated[int, Meta(description="Of the file as transferred, compressed or not.")] = 0
    bytes_total: Annotated[int | None, Meta(description="The file's size as transferred.")] = None
    percent: Annotated[
        float | None,
        Meta(description="Below 100 until the rows are visible. Counts the roll back while there is one."),
    ] = None
    rows_loaded: Annotated[
        int, Meta(description="Visible to readers of trips only once the import has succeeded.")
    ] = 0
    rows_rejected: Annotated[int, Meta(description="Set aside; see the import's rejects.")] = 0
    bytes_per_second: Annotated[float | None, Meta(description="Of the last ten seconds.")] = None
    rows_per_second: Annotated[float | None, Meta(description="Of the last ten seconds.")] = None
    eta_seconds: Annotated[float | None, Meta(description="Until the rows are visible, at this rate.")] = None


class Failure(msgspec.Struct, frozen=True):
    """Why an import, or one attempt at it, ended without rows: what happened, where, what to do next."""

    code: Annotated[
        str,
        Meta(description="For programs; /schema/problems lists all. More may come.", examples=["bad_row"]),
    ]
    message: Annotated[str, Meta(description="What happened, for people.")]
    hint: Annotated[str, Meta(description="What to do next.")]
    retryable: Annotated[bool, Meta(description="The same import may well succeed when it is tried again.")]
    line: Annotated[int | None, Meta(description="Of the file; the header is line 1.")] = None
    byte_offset: Annotated[int | None, Meta(description="Of the row in the decompressed file.")] = None
    column: Annotated[str | None, Meta(description="As trips names it.")] = None
    value: Annotated[str | None, Meta(description="The beginning of what was found there.")] = None


class Receipt(msgspec.Struct, frozen=True):
    """What a published import proves: rows parsed - rejected = copied = published, and each byte was read once."""

    import_key: Annotated[int, Meta(description="`trips.import_key` of its rows.")]
    source: Annotated[str, Meta(description="Without credentials and query.")]
    validator: Annotated[
        str | None, Meta(description="The ETag or Last-Modified that every response carried.")
    ]
    source_bytes: Annotated[int, Meta(description="As transferred, compressed or not.")]
    data_bytes: Annotated[int, Meta(description="Decompressed, with the header.")]
    length_verified: Annotated[
        bool, Meta(description="A response announced the file's end or marked it, and the file ended there.")
    ]
    blocks: Annotated[int, Meta(description="Byte ranges that were encoded.")]
    parts: Annotated[int, Meta(description="Tables that were committed.")]
    rows_parsed: Annotated[int, Meta(description="Rows of the file.")]
    rows_copied: Annotated[int, Meta(description="Rows that the database took, by its own count.")]
    rows_published: Annotated[int, Meta(description="Rows that became visible in trips.")]
    rows_rejected: Annotated[int, Meta(description="Rows that were set aside.")]
    attempts: Annotated[int, Meta(description="Attempts that it took.")]
    seconds: Annotated[float, Meta(description="That the last attempt took.")]
    published_at: datetime.datetime
    notes: Annotated[list[str], Meta(description="What a person may want to know about the file.")]


class Links(msgspec.Struct, frozen=True):
    """Paths on this server."""

    itself: Annotated[str, Meta(description="The import.")] = msgspec.field(name="self")
    events: Annotated[str, Meta(description="Its changes as server-sent events.")]
    attempts: Annotated[str, Meta(description="Its attempts, with their errors and logs.")]
    rejects: Annotated[str, Meta(description="The rows that were set aside.")]
    cancel: Annotated[str, Meta(description="POST here to cancel it.")]
    retry: Annotated[str, Meta(description="POST here to try it again after it failed or was cancelled.")]


class Import(msgspec.Struct, frozen=True):
    """One file that is, was, or will be loaded into trips, once: all of its rows or none."""

    id: UUID
    url: Annotated[str, Meta(description="Without credentials and query.")]
    mode: Mode
    max_rejects: Annotated[str, Meta(description="A count or a percentage.", examples=["0", "0.5%"])]
    workers: Annotated[int | None, Meta(description="As asked for.")]
    force: Annotated[bool, Meta(description="As asked for.")]
    require_verified_length: Annotated[bool, Meta(description="As asked for.")]
    state: State
    phase: Annotated[
        Phase | None,
        Meta(description="What its loader is doing; null: no loader runs, or it has not said so yet."),
    ]
    attempt: Annotated[
        int, Meta(description="Of the loader that runs, or ran last; 0: none was started yet.")
    ]
    progress: Progress
    created_at: datetime.datetime
    started_at: Annotated[datetime.datetime | None, Meta(description="Of the first attempt.")]
    finished_at: datetime.datetime | None
    next_attempt_at: Annotated[
        datetime.datetime | None, Meta(description="While it is queued because an attempt failed.")
    ]
    error: Annotated[
        Failure | None,
        Meta(
            description="Why it failed; while it is queued, why its last attempt did; while it is cancelling or removing,"
            " why something of it is still there."
        ),
    ]
    receipt: Annotated[Receipt | None, Meta(description="Once it has succeeded.")]
    links: Links

    @classmethod
    def of(cls, stored: StoredImport) -> Self:
        """Show an import of the control DB."""
        job = stored.job
        return cls(
            id=stored.id,
            url=parse_address(job.source).location,
            mode=Mode(job.mode),
            max_rejects=job.max_rejects,
            workers=job.workers,
            force=job.force,
            require_verified_length=job.require_verified_length,
            state=stored.state,
            phase=None if stored.phase is None else Phase(stored.phase),
            attempt=stored.attempt_count,
            progress=_progress(stored),
            created_at=stored.created_at,
            started_at=stored.started_at,
            finished_at=stored.finished_at,
            next_attempt_at=stored.not_before,
            error=_failure(stored.error),
            receipt=msgspec.convert(stored.receipt, Receipt | None, from_attributes=True),
            links=_links(stored.id),
        )


class ImportPage(msgspec.Struct, frozen=True):
    """Imports, newest first, and how to get the next ones."""

    imports: list[Import]
    next_cursor: Annotated[str | None, Meta(description="`cursor` of the next page; null: there is none.")]
    links: PageLinks


class PageLinks(msgspec.Struct, frozen=True):
    """Paths on this server."""

    next: Annotated[str | None, Meta(description="The next page; null: there is none.")]


class Attempt(msgspec.Struct, frozen=True):
    """One loader process that was started for an import."""

    number: Annotated[int, Meta(description="From 1.")]
    started_at: datetime.datetime
    finished_at: Annotated[datetime.datetime | None, Meta(description="Null: it runs.")]
    exit_code: Annotated[
        int | None,
        Meta(
            description="As sysexits.h has them; negative: the signal that killed it; null: it runs, or nobody saw it end."
        ),
    ]
    error: Failure | None
    log: Annotated[str, Meta(description="The end of what it wrote to its stderr.")]

    @classmethod
    def of(cls, stored: StoredAttempt) -> Self:
        """Show an attempt of the control DB."""
        return cls(
            number=stored.number,
            started_at=stored.started_at,
            finished_at=stored.finished_at,
            exit_code=stored.exit_code,
            error=_failure(stored.error),
            log=stored.log,
        )


class Reject(msgspec.Struct, frozen=True):
    """One row that was set aside."""

    line: Annotated[int, Meta(description="Of the file; the header is line 1.")]
    byte_offset: Annotated[int, Meta(description="Of the row in the decompressed file.")]
    column: Annotated[str | None, Meta(description="As trips names it; null: the row as a whole.")]
    value: Annotated[
        str | None, Meta(description="The beginning of the field, or of the row; undecodable bytes as \\xNN.")
    ]
    reason: Annotated[str, Meta(description="For people.", examples=["not a timestamp"])]
    original: Annotated[str, Meta(description="The whole row; undecodable bytes as \\xNN.")]


class Health(msgspec.Struct, frozen=True):
    """The service is well."""

    status: Annotated[str, Meta(examples=["ready"])]


def _progress(stored: StoredImport) -> Progress:
    """Return where it stands: at the end the receipt's numbers, and no rate where no loader reports one."""
    if stored.receipt is not None:
        return Progress(
            bytes_done=stored.receipt.source_bytes,
            bytes_total=stored.receipt.source_bytes,
            percent=100,
            rows_loaded=stored.receipt.rows_published,
            rows_rejected=stored.receipt.rows_rejected,
        )
    if stored.progress is None:
        return Progress()
    progress = msgspec.convert(stored.progress, Progress, from_attributes=True)
    if stored.phase is not None:
        return progress
    return msgspec.structs.replace(progress, bytes_per_second=None, rows_per_second=None, eta_seconds=None)


def _failure(failure: contract.Failure | None) -> Failure | None:
    return msgspec.convert(failure, Failure | None, from_attributes=True)


def _links(import_id: UUID) -> Links:
    path = f"/imports/{import_id}"
    return Links(
        itself=path,
        events=f"{path}/events",
        attempts=f"{path}/attempts",
        rejects=f"{path}/rejects",
        cancel=f"{path}/cancel",
        retry=f"{path}/retry",
    )
