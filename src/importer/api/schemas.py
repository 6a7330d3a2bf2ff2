"""The JSON that clients receive, as structs, and the conversion of an import of the control DB into one.

The OpenAPI document has the descriptions. A URL is shown without credentials and query. Times are UTC.
"""

from __future__ import annotations

import datetime
import enum
from typing import Annotated, Literal, Self
from uuid import UUID

import msgspec
from msgspec import Meta

from importer.api.root_path import link
from importer.model import FINISHED, State
from importer.model import Attempt as StoredAttempt
from importer.model import Import as StoredImport
from loader import contract
from loader.http.url import parse_url

Time = Annotated[datetime.datetime, Meta(tz=True)]  # the time zone makes it a `date-time` in the document
NextCursor = Annotated[
    str | None, Meta(description="`cursor` of the next page; null: this is the last page.")
]


class Mode(enum.StrEnum):
    """What happens to the rows that are in trips."""

    APPEND = "append"
    REPLACE = "replace"


class Phase(enum.StrEnum):
    """What a loader is doing."""

    PROBING = "probing"
    LOADING = "loading"
    INDEXING = "indexing"
    PUBLISHING = "publishing"
    ROLLING_BACK = "rolling_back"


class Progress(msgspec.Struct, frozen=True):
    """The progress of an import. An unknown value is null, never a guess."""

    bytes_done: Annotated[int, Meta(description="Bytes of the file as transferred, compressed or not.")]
    bytes_total: Annotated[int | None, Meta(description="The file's size as transferred.")]
    percent: Annotated[
        float | None,
        Meta(description="Below 100 until the rows are visible. During a roll back: of the roll back."),
    ]
    rows_loaded: Annotated[
        int,
        Meta(description="Rows in the database. Readers of trips see them once the import has succeeded."),
    ]
    rows_rejected: Annotated[int, Meta(description="Rejected rows; GET /imports/{id}/rejects lists them.")]
    bytes_per_second: Annotated[float | None, Meta(description="The mean of the last ten seconds.")]
    rows_per_second: Annotated[float | None, Meta(description="The mean of the last ten seconds.")]
    eta_seconds: Annotated[
        float | None, Meta(description="Seconds until the rows are visible, at this rate.")
    ]


_NO_PROGRESS = Progress(
    bytes_done=0,
    bytes_total=None,
    percent=None,
    rows_loaded=0,
    rows_rejected=0,
    bytes_per_second=None,
    rows_per_second=None,
    eta_seconds=None,
)


class Failure(msgspec.Struct, frozen=True):
    """Why an import or an attempt failed: what happened, where, what to do next."""

    code: Annotated[
        str,
        Meta(
            description="For programs. /schema/problems lists the codes; new ones may come.",
            examples=["bad_row"],
        ),
    ]
    message: Annotated[str, Meta(description="What happened, for people.")]
    hint: Annotated[str, Meta(description="What to do next.")]
    retryable: Annotated[bool, Meta(description="Whether a retry may succeed.")]
    line: Annotated[int | None, Meta(description="Line of the file; the header is line 1.")]
    byte_offset: Annotated[int | None, Meta(description="Offset of the row in the decompressed file.")]
    column: Annotated[str | None, Meta(description="The column of trips.")]
    value: Annotated[str | None, Meta(description="The beginning of the value.")]


class Receipt(msgspec.Struct, frozen=True):
    """The proof of a published import: parsed - rejected = copied = published rows, and each byte was read once."""

    import_key: Annotated[int, Meta(description="`trips.import_key` of its rows.")]
    url: Annotated[str, Meta(description="Without credentials and query.")]
    validator: Annotated[str | None, Meta(description="The ETag or Last-Modified of every response.")]
    source_bytes: Annotated[int, Meta(description="Size of the file as transferred, compressed or not.")]
    data_bytes: Annotated[int, Meta(description="Size of the decompressed file, with its header.")]
    length_verified: Annotated[bool, Meta(description="The file ended where its length or an end mark said.")]
    blocks: Annotated[int, Meta(description="Byte ranges of the file, each encoded as one.")]
    parts: Annotated[int, Meta(description="Tables, each committed in one transaction.")]
    rows_parsed: Annotated[int, Meta(description="Rows in the file.")]
    rows_copied: Annotated[int, Meta(description="Rows that PostgreSQL counted during COPY.")]
    rows_published: Annotated[int, Meta(description="Rows that are visible in trips.")]
    rows_rejected: Annotated[int, Meta(description="Rows that were rejected.")]
    attempts: Annotated[int, Meta(description="Number of attempts.")]
    seconds: Annotated[float, Meta(description="Duration of the last attempt.")]
    published_at: Annotated[Time, Meta(description="When its rows became visible.")]
    database: Annotated[
        str | None,
        Meta(
            description="Where its rows are: name, host and port, or the embedded server's folder; null: published by an"
            " older version.",
            examples=["taxi at db.example.org:5432"],
        ),
    ]
    notes: Annotated[list[str], Meta(description="Remarks about the file, for people.")]

    @classmethod
    def of(cls, receipt: contract.Receipt) -> Self:
        """Convert a loader's receipt. Its source may be a path; that of the service's loaders is a URL."""
        return msgspec.convert(msgspec.structs.asdict(receipt) | {"url": receipt.source}, cls)


class Links(msgspec.Struct, frozen=True):
    """Paths on this server. Null: not in this state."""

    itself: Annotated[str, Meta(description="The import.")] = msgspec.field(name="self")
    events: Annotated[str, Meta(description="Its changes, as server-sent events.")]
    attempts: Annotated[str, Meta(description="Its attempts, with their errors and logs.")]
    rejects: Annotated[str | None, Meta(description="Its rejected rows, as JSON with the reasons.")]
    rejects_csv: Annotated[str | None, Meta(description="Its rejected rows, as a CSV file.")]
    cancel: Annotated[str | None, Meta(description="POST here to cancel it.")]
    retry: Annotated[str | None, Meta(description="POST here to retry it.")]
    remove: Annotated[str | None, Meta(description="DELETE this to remove it.")]

    @classmethod
    def of(cls, stored: StoredImport) -> Self:
        """Return the links to what an import's state allows."""
        path = link(f"/imports/{stored.id}")
        has_failed = stored.state is State.QUEUED and stored.error is not None
        has_rows = stored.receipt is not None or (
            stored.progress is not None and stored.progress.rows_loaded + stored.progress.rows_rejected > 0
        )
        can_list = has_rows and stored.state not in (State.CANCELLING, State.REMOVING)
        remove = f"{path}?rows=drop" if stored.state is State.SUCCEEDED else path
        return cls(
            itself=path,
            events=f"{path}/events",
            attempts=f"{path}/attempts",
            rejects=f"{path}/rejects" if can_list else None,
            rejects_csv=f"{path}/rejects.csv" if can_list else None,
            cancel=f"{path}/cancel" if stored.state in (State.QUEUED, State.RUNNING) else None,
            retry=f"{path}/retry" if has_failed or stored.state in (State.FAILED, State.CANCELLED) else None,
            remove=remove if stored.state in FINISHED else None,
        )


class Import(msgspec.Struct, frozen=True):
    """One file that is loaded into trips once: all of its rows or none."""

    id: UUID
    version: Annotated[
        int, Meta(description="Grows with each change: `after` of a long poll, the ETag, the id of an event.")
    ]
    label: Annotated[str | None, Meta(description="As requested.", examples=["January, second try"])]
    url: Annotated[str, Meta(description="Without credentials and query.")]
    mode: Mode
    max_rejects: Annotated[str, Meta(description="A count or a percentage.", examples=["0", "0.5%"])]
    workers: Annotated[int | None, Meta(description="As requested.")]
    force: Annotated[bool, Meta(description="As requested.")]
    require_verified_length: Annotated[bool, Meta(description="As requested.")]
    ignore_etag: Annotated[bool, Meta(description="As requested.")]
    state: State
    phase: Annotated[
        Phase | None,
        Meta(description="What its loader does; null: no loader runs, or it has not reported yet."),
    ]
    attempts: Annotated[int, Meta(description="Number of attempts so far, the current one included.")]
    progress: Progress
    created_at: Time
    started_at: Annotated[Time | None, Meta(description="Start of the first attempt.")]
    finished_at: Time | None
    next_attempt_at: Annotated[Time | None, Meta(description="While it is queued after a failed attempt.")]
    error: Annotated[
        Failure | None,
        Meta(
            description="Why it failed. While queued: why the last attempt failed. While running: why it waits for the"
            " database. While cancelling or removing: why this takes long."
        ),
    ]
    receipt: Annotated[Receipt | None, Meta(description="Once it has succeeded.")]
    links: Links

    @classmethod
    def of(cls, stored: StoredImport) -> Self:
        """Convert an import of the control DB."""
        job = stored.job
        return cls(
            id=stored.id,
            version=stored.version,
            label=stored.label,
            url=parse_url(job.source).location,
            mode=Mode(job.mode),
            max_rejects=job.max_rejects,
            workers=job.workers,
            force=job.force,
            require_verified_length=job.require_verified_length,
            ignore_etag=job.ignore_etag,
            state=stored.state,
            phase=None if stored.phase is None else Phase(stored.phase),
            attempts=stored.attempt_count,
            progress=_progress(stored),
            created_at=stored.created_at,
            started_at=stored.started_at,
            finished_at=stored.finished_at,
            next_attempt_at=stored.not_before,
            error=_failure(stored.error),
            receipt=None if stored.receipt is None else Receipt.of(stored.receipt),
            links=Links.of(stored),
        )


class ImportPage(msgspec.Struct, frozen=True):
    """Imports, newest first."""

    imports: list[Import]
    next_cursor: NextCursor


class AttemptLinks(msgspec.Struct, frozen=True):
    """Paths on this server. Null: not yet."""

    log: Annotated[str | None, Meta(description="The end of its log, as text, once it has ended.")]


class Attempt(msgspec.Struct, frozen=True):
    """One attempt at an import: one loader process."""

    number: Annotated[int, Meta(description="From 1.")]
    started_at: Time
    finished_at: Annotated[Time | None, Meta(description="Null: it is running.")]
    exit_code: Annotated[
        int | None,
        Meta(
            description="From sysexits.h; negative: the signal that killed it; null: it is running, or its end was not"
            " observed."
        ),
    ]
    error: Failure | None
    links: AttemptLinks

    @classmethod
    def of(cls, import_id: UUID, stored: StoredAttempt) -> Self:
        """Convert an attempt of the control DB."""
        log = link(f"/imports/{import_id}/attempts/{stored.number}/log")
        return cls(
            number=stored.number,
            started_at=stored.started_at,
            finished_at=stored.finished_at,
            exit_code=stored.exit_code,
            error=_failure(stored.error),
            links=AttemptLinks(None if stored.finished_at is None else log),
        )


class AttemptPage(msgspec.Struct, frozen=True):
    """Attempts at an import, oldest first."""

    attempts: list[Attempt]
    next_cursor: NextCursor


class Reject(msgspec.Struct, frozen=True):
    """One rejected row."""

    line: Annotated[int, Meta(description="Line of the file; the header is line 1.")]
    byte_offset: Annotated[int, Meta(description="Offset of the row in the decompressed file.")]
    column: Annotated[str | None, Meta(description="The column of trips; null: the row as a whole.")]
    value: Annotated[
        str | None, Meta(description="The beginning of the field, or of the row; undecodable bytes as \\xNN.")
    ]
    reason: Annotated[str, Meta(description="Why it was rejected, for people.", examples=["not a number"])]
    original: Annotated[str, Meta(description="The whole row; undecodable bytes as \\xNN.")]


class Health(msgspec.Struct, frozen=True):
    """The service is live or ready."""

    status: Literal["live", "ready"]


class ImportEvent(msgspec.Struct, frozen=True, tag_field="event", tag="import"):
    """The import has changed. It is also the first event of a stream."""

    id: Annotated[str, Meta(description="The import's version, for `Last-Event-ID` of the next request.")]
    data: Annotated[
        str,
        Meta(
            description="The import as JSON, in one line.",
            extra_json_schema={
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/Import"},
            },
        ),
    ]


class RemovedEvent(msgspec.Struct, frozen=True, tag_field="event", tag="removed"):
    """The import no longer exists. It is the last event of a stream."""

    data: Annotated[UUID, Meta(description="The import's id.")]


def _progress(stored: StoredImport) -> Progress:
    """Return the progress: from the receipt if there is one, without rates while no loader runs."""
    if stored.receipt is not None:
        return msgspec.structs.replace(
            _NO_PROGRESS,
            bytes_done=stored.receipt.source_bytes,
            bytes_total=stored.receipt.source_bytes,
            percent=100,
            rows_loaded=stored.receipt.rows_published,
            rows_rejected=stored.receipt.rows_rejected,
        )
    if stored.progress is None:
        return _NO_PROGRESS
    progress = msgspec.convert(stored.progress, Progress, from_attributes=True)
    if stored.phase is not None:
        return progress
    return msgspec.structs.replace(progress, bytes_per_second=None, rows_per_second=None, eta_seconds=None)


def _failure(failure: contract.Failure | None) -> Failure | None:
    return msgspec.convert(failure, Failure | None, from_attributes=True)
