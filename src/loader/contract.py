"""The contract between a loader and its supervisor: the job, the messages, the exit codes, the failure codes.

A supervisor writes one `Job` as a line of JSON to the loader's stdin and keeps stdin open; the loader writes `Message`s, one
JSON object per line, to stdout. A test compares `docs/loader-contract.md` with this module. Later versions may add fields
and failure codes: a reader ignores unknown fields, and treats an unknown exit code as a failure. This module imports nothing
of the project.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

Mode = Literal["append", "replace"]
Phase = Literal["probing", "loading", "indexing", "publishing", "rolling_back"]


class ExitCode(enum.IntEnum):
    """The exit codes: those of sysexits.h where one fits, 128 + signal for signals."""

    PUBLISHED = 0
    USAGE = 2
    DATA = 65
    SOURCE = 66
    DATABASE_UNAVAILABLE = 69
    INTERNAL = 70
    OUT_OF_SPACE = 73
    SUSPENDED = 75
    CONFIGURATION = 78
    INTERRUPTED = 130
    TERMINATED = 143


class FailureCode(enum.StrEnum):
    """Why an import has failed. The CLI and the REST API use the same codes."""

    USAGE = "usage"
    HEADER_MISMATCH = "header_mismatch"
    EMPTY_FILE = "empty_file"
    NOT_CSV = "not_csv"
    BAD_ROW = "bad_row"
    TOO_MANY_REJECTS = "too_many_rejects"
    RECORD_TOO_LONG = "record_too_long"
    ALREADY_IMPORTED = "already_imported"
    SOURCE_NOT_FOUND = "source_not_found"
    SOURCE_FORBIDDEN = "source_forbidden"
    SOURCE_REFUSED = "source_refused"
    SOURCE_UNREACHABLE = "source_unreachable"
    SOURCE_CHANGED = "source_changed"
    SOURCE_TRUNCATED = "source_truncated"
    LENGTH_UNVERIFIED = "length_unverified"
    SOURCE_CORRUPT = "source_corrupt"
    SOURCE_PROTOCOL = "source_protocol"
    DATABASE_UNAVAILABLE = "database_unavailable"
    CLEANUP_PENDING = "cleanup_pending"
    OUT_OF_SPACE = "out_of_space"
    SUSPENDED = "suspended"
    IMPORT_BUSY = "import_busy"
    TABLE_LOCKED = "table_locked"
    TABLE_CHANGED = "table_changed"
    TABLE_MISMATCH = "table_mismatch"
    TABLE_REFERENCED = "table_referenced"
    IMPORT_DETACHED = "import_detached"
    IMPORT_NOT_FOUND = "import_not_found"
    DATABASE_RIGHTS = "database_rights"
    DATABASE_UNSUPPORTED = "database_unsupported"
    DATABASE_CONFIGURATION = "database_configuration"
    EMBEDDED_DATABASE = "embedded_database"
    LOADER_KILLED = "loader_killed"
    PROOF_FAILED = "proof_failed"
    INTERNAL_ERROR = "internal_error"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"


Staging = Literal["kept", "dropped"]


class FailureKind(msgspec.Struct, frozen=True):
    """The properties of all failures with one code."""

    exit_code: ExitCode
    retryable: bool  # the same command may succeed later
    meaning: str  # one sentence for the documentation
    # Whether the staging is kept. It is dropped if the user asks for it, the file has changed or its data are bad.
    staging: Staging = "kept"


FAILURE_KINDS: dict[FailureCode, FailureKind] = {
    FailureCode.USAGE: FailureKind(ExitCode.USAGE, False, "The command line or the job is not valid."),
    FailureCode.HEADER_MISMATCH: FailureKind(
        ExitCode.DATA, False, "The file's header is not that of the trips table."
    ),
    FailureCode.EMPTY_FILE: FailureKind(
        ExitCode.DATA, False, "The file has no rows: no bytes at all, or a header only."
    ),
    FailureCode.NOT_CSV: FailureKind(
        ExitCode.DATA, False, "The file is no CSV in UTF-8: HTML, UTF-16, an archive."
    ),
    FailureCode.BAD_ROW: FailureKind(
        ExitCode.DATA,
        False,
        "A row can't be stored, and no reject is allowed; or it violates a constraint or an index of trips.",
        "dropped",
    ),
    FailureCode.TOO_MANY_REJECTS: FailureKind(
        ExitCode.DATA, False, "More rows were rejected than --max-rejects allows.", "dropped"
    ),
    FailureCode.RECORD_TOO_LONG: FailureKind(
        ExitCode.DATA, False, "A record is longer than a block; usually a quote is not closed.", "dropped"
    ),
    FailureCode.ALREADY_IMPORTED: FailureKind(
        ExitCode.DATA,
        False,
        "This file (same URL, size, validator and digest) is published already.",
        "dropped",
    ),
    FailureCode.SOURCE_NOT_FOUND: FailureKind(ExitCode.SOURCE, False, "The file or the URL does not exist."),
    FailureCode.SOURCE_FORBIDDEN: FailureKind(
        ExitCode.SOURCE,
        False,
        "The server or the file system denies access; a signed URL may have expired.",
    ),
    FailureCode.SOURCE_REFUSED: FailureKind(
        ExitCode.SOURCE, False, "The URL, or one that it redirects to, is neither public nor allowed."
    ),
    FailureCode.SOURCE_UNREACHABLE: FailureKind(
        ExitCode.SOURCE, True, "The server can't be reached, or fails repeatedly; retries are exhausted."
    ),
    FailureCode.SOURCE_CHANGED: FailureKind(
        ExitCode.SOURCE, False, "The file is not the one that the import started with.", "dropped"
    ),
    FailureCode.SOURCE_TRUNCATED: FailureKind(
        ExitCode.SOURCE, True, "The file is shorter than the server announced, or ends within a record."
    ),
    FailureCode.LENGTH_UNVERIFIED: FailureKind(
        ExitCode.SOURCE, False, "The source announces no length, and --require-verified-length is set."
    ),
    FailureCode.SOURCE_CORRUPT: FailureKind(
        ExitCode.SOURCE,
        False,
        "The compressed data is damaged, or followed by other data.",
        "dropped",
    ),
    FailureCode.SOURCE_PROTOCOL: FailureKind(
        ExitCode.SOURCE, False, "The server's responses contradict each other or the HTTP standard."
    ),
    FailureCode.DATABASE_UNAVAILABLE: FailureKind(
        ExitCode.DATABASE_UNAVAILABLE, True, "The database can't be reached; retries are exhausted."
    ),
    FailureCode.CLEANUP_PENDING: FailureKind(
        ExitCode.DATABASE_UNAVAILABLE,
        True,
        "Loading has stopped, but the staging is not removed yet.",
        "dropped",
    ),
    FailureCode.OUT_OF_SPACE: FailureKind(
        ExitCode.OUT_OF_SPACE, False, "The database server's disk is full."
    ),
    FailureCode.SUSPENDED: FailureKind(
        ExitCode.SUSPENDED,
        True,
        "The import was suspended and what is committed is kept; the same command resumes it.",
    ),
    FailureCode.IMPORT_BUSY: FailureKind(ExitCode.SUSPENDED, True, "Another loader holds this import."),
    FailureCode.TABLE_LOCKED: FailureKind(
        ExitCode.SUSPENDED,
        True,
        "Other sessions held locks on trips for too long; the same command resumes the import.",
    ),
    FailureCode.TABLE_CHANGED: FailureKind(ExitCode.SUSPENDED, True, "trips was altered during the import."),
    FailureCode.TABLE_MISMATCH: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "trips is not the loader's table, or has a column, constraint or index that the rows can't satisfy.",
    ),
    FailureCode.TABLE_REFERENCED: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "Another object, such as a foreign key or a view, depends on an import that is to be removed.",
    ),
    FailureCode.IMPORT_DETACHED: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "The import is published, but its table or its rows were taken out of trips.",
    ),
    FailureCode.IMPORT_NOT_FOUND: FailureKind(
        ExitCode.USAGE, False, "The ledger has no import with this id."
    ),
    FailureCode.DATABASE_RIGHTS: FailureKind(
        ExitCode.CONFIGURATION, False, "The database role lacks a privilege that the loader needs."
    ),
    FailureCode.DATABASE_UNSUPPORTED: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "The database is read-only, not in UTF-8, behind a pooler without sessions, or older than PostgreSQL 15.",
    ),
    FailureCode.DATABASE_CONFIGURATION: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "The first connection or a statement is refused, the schema public is missing, or a limit is too low.",
    ),
    FailureCode.EMBEDDED_DATABASE: FailureKind(
        ExitCode.CONFIGURATION, False, "The embedded PostgreSQL could not be started."
    ),
    FailureCode.LOADER_KILLED: FailureKind(
        ExitCode.SUSPENDED,
        True,
        "Reported by a supervisor: the loader was killed, made no progress or could not be started.",
    ),
    FailureCode.PROOF_FAILED: FailureKind(
        ExitCode.INTERNAL,
        False,
        "The staging does not prove that the file is loaded completely; nothing was published.",
        "dropped",
    ),
    FailureCode.INTERNAL_ERROR: FailureKind(
        ExitCode.INTERNAL, False, "A defect of the loader, or of the database server."
    ),
    FailureCode.INTERRUPTED: FailureKind(
        ExitCode.INTERRUPTED, False, "SIGINT: the import was rolled back.", "dropped"
    ),
    FailureCode.TERMINATED: FailureKind(
        ExitCode.TERMINATED, False, "SIGTERM: the import was rolled back.", "dropped"
    ),
}


# The probe may wait for a response six times, and a supervisor ends a loader that makes no progress for half an hour.
MAX_READ_TIMEOUT_SECONDS = 300

_UUID = r"^(?i:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(?!\n)$"


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to import, and how. Read from stdin, never from argv, so that `ps` shows no secret."""

    source: str  # http(s) URL, path, or - for stdin (not under a supervisor, which uses stdin for the job)
    # a UUID; None: resume from this source's staging, or start a new import
    import_id: Annotated[str, msgspec.Meta(pattern=_UUID)] | None = None
    mode: Mode = "append"
    # database connections that load; None: one per core, up to 4
    workers: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_rejects: str = "0"  # a count, or a percentage such as "0.5%"
    force: bool = False  # import even if this file is published already
    require_verified_length: bool = False  # fail rather than publish with `length_verified: false`
    # identify the file by size, Last-Modified and digest: its server's nodes disagree on the ETag
    ignore_etag: bool = False
    # how long the source's server may send no byte, also before the first one; None: 30 s
    read_timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=MAX_READ_TIMEOUT_SECONDS)] | None = None
    on_sigterm: Literal["roll_back", "suspend"] = "roll_back"
    database_url: str | None = None  # None: DATABASE_URL, else the embedded server
    # A list, even an empty one: only http(s), and only public addresses and these names, IP addresses and CIDRs, each with
    # or without a port (address_policy.py). None: any source.
    allowed_hosts: list[str] | None = None


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened, where, and what to do next."""

    code: FailureCode
    message: str
    hint: str
    retryable: bool
    line: int | None = None  # physical line of the file, 1 is the header
    byte_offset: int | None = None  # of the record's first byte in the (decompressed) file
    column: str | None = None
    value: str | None = None  # at most 200 characters of it, as text


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The proof of a published import: rows parsed - rows rejected = rows copied = rows published."""

    import_id: str
    import_key: int  # trips.import_key of its rows
    source: str  # without credentials and query
    validator: str | None  # the ETag or Last-Modified that every response had
    source_bytes: int  # as transferred, compressed or not
    data_bytes: int  # decompressed, header included; the blocks cover each byte after the header exactly once
    length_verified: bool  # the source announced or marked the end of the file, and the file ended there
    blocks: int
    parts: int
    rows_parsed: int
    rows_copied: int
    rows_published: int
    rows_rejected: int
    attempts: int
    seconds: float  # of the last attempt
    published_at: str  # ISO 8601, UTC
    # name, host and port, or the embedded server's folder; None: of an older version
    database: str | None = None
    notes: list[str] = msgspec.field(default_factory=lambda: list[str]())


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The progress of an import. Rates are of the last 10 seconds; None: not known."""

    bytes_done: int  # of the source as transferred, loaded in this or an earlier attempt
    bytes_total: int | None
    percent: float | None  # never 100 before the commit
    rows_loaded: int
    rows_rejected: int
    bytes_per_second: float | None
    rows_per_second: float | None
    eta_seconds: float | None


class Started(msgspec.Struct, frozen=True, tag_field="type", tag="started"):
    """First message: the process has started."""

    pid: int
    version: str


class Probed(msgspec.Struct, frozen=True, tag_field="type", tag="probed", omit_defaults=True):
    """The source was probed and can be imported; the import is in the ledger."""

    import_id: str
    source: str
    bytes_total: int | None
    validator: str | None
    compression: Literal["gzip", "zstd"] | None
    attempt: int
    resumed: bool  # part of it was committed by an earlier attempt
    database: str  # as in the receipt
    notes: list[str]


class ProgressMessage(msgspec.Struct, frozen=True, tag_field="type", tag="progress"):
    """Sent at each change of phase, and twice a second."""

    phase: Phase
    progress: Progress


class Published(msgspec.Struct, frozen=True, tag_field="type", tag="published"):
    """Last message with exit 0."""

    receipt: Receipt


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="failed", omit_defaults=True):
    """Last message with any other exit code. `staging`: none is left, kept for the next attempt, or unknown."""

    failure: Failure
    staging: Literal["none", "kept", "unknown"]
    import_id: str | None = None


Message = Started | Probed | ProgressMessage | Published | Failed
