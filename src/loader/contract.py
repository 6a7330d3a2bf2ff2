"""THE CONTRACT between a loader and whoever started it: the job, the messages, the exit codes, the failure codes.

A supervisor writes one `Job` as a line of JSON to the loader's stdin and holds stdin open; the loader writes
`Message`s, one JSON object a line, to stdout. `docs/loader-contract.md` is this module in prose, held to it by a test.
New fields and new failure codes may come; a reader ignores fields it does not know, and takes an exit code
it does not know as a failure. This module imports nothing of the project.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

Mode = Literal["append", "replace"]
Phase = Literal["probing", "loading", "indexing", "publishing", "rolling_back"]


class ExitCode(enum.IntEnum):
    """What the process says when it ends (sysexits.h where it has a fitting code, 128 + signal for signals)."""

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
    """Why an import did not end in a receipt: the one failure vocabulary of CLI and REST."""

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
    """What is true of every failure with one code."""

    exit_code: ExitCode
    retryable: bool  # the same command may well succeed
    meaning: str  # one sentence for the documentation
    # What becomes of what is committed. It is dropped where the user says so, the file has changed or its data are bad.
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
        ExitCode.DATA, False, "The bytes are something else: HTML, UTF-16, an archive."
    ),
    FailureCode.BAD_ROW: FailureKind(
        ExitCode.DATA,
        False,
        "A row can't be stored, and no reject was allowed; or it breaks a constraint or an index of trips.",
        "dropped",
    ),
    FailureCode.TOO_MANY_REJECTS: FailureKind(
        ExitCode.DATA, False, "More rows were rejected than --max-rejects.", "dropped"
    ),
    FailureCode.RECORD_TOO_LONG: FailureKind(
        ExitCode.DATA, False, "A record is longer than a block; usually a quote is never closed.", "dropped"
    ),
    FailureCode.ALREADY_IMPORTED: FailureKind(
        ExitCode.DATA,
        False,
        "This very file (address, size, validator, digest) is published already.",
        "dropped",
    ),
    FailureCode.SOURCE_NOT_FOUND: FailureKind(ExitCode.SOURCE, False, "There is no such file or address."),
    FailureCode.SOURCE_FORBIDDEN: FailureKind(
        ExitCode.SOURCE,
        False,
        "The server or the file system refuses access; a signed address may have expired.",
    ),
    FailureCode.SOURCE_REFUSED: FailureKind(
        ExitCode.SOURCE, False, "The address, or one that it leads to, is not public, and not allowed either."
    ),
    FailureCode.SOURCE_UNREACHABLE: FailureKind(
        ExitCode.SOURCE, True, "The server can't be reached or keeps failing, beyond the retry budget."
    ),
    FailureCode.SOURCE_CHANGED: FailureKind(
        ExitCode.SOURCE, False, "The file is not the one the import began with.", "dropped"
    ),
    FailureCode.SOURCE_TRUNCATED: FailureKind(ExitCode.SOURCE, True, "The file ends before its end."),
    FailureCode.LENGTH_UNVERIFIED: FailureKind(
        ExitCode.SOURCE, False, "Nothing says where the file ends, and a verified length was asked for."
    ),
    FailureCode.SOURCE_CORRUPT: FailureKind(
        ExitCode.SOURCE,
        False,
        "The compressed data is damaged, or more than just one compressed file.",
        "dropped",
    ),
    FailureCode.SOURCE_PROTOCOL: FailureKind(
        ExitCode.SOURCE, False, "The server's answers contradict each other or the HTTP standard."
    ),
    FailureCode.DATABASE_UNAVAILABLE: FailureKind(
        ExitCode.DATABASE_UNAVAILABLE, True, "The database can't be reached, beyond the retry budget."
    ),
    FailureCode.CLEANUP_PENDING: FailureKind(
        ExitCode.DATABASE_UNAVAILABLE,
        True,
        "Loading has stopped, but the staging could not be removed yet.",
        "dropped",
    ),
    FailureCode.OUT_OF_SPACE: FailureKind(
        ExitCode.OUT_OF_SPACE, False, "The database server's disk is full."
    ),
    FailureCode.SUSPENDED: FailureKind(
        ExitCode.SUSPENDED, True, "Told to stop and keep what is committed; the same command goes on."
    ),
    FailureCode.IMPORT_BUSY: FailureKind(ExitCode.SUSPENDED, True, "Another loader holds this import."),
    FailureCode.TABLE_LOCKED: FailureKind(
        ExitCode.SUSPENDED,
        True,
        "Other sessions kept trips locked for too long; nothing is lost, the same command goes on.",
    ),
    FailureCode.TABLE_CHANGED: FailureKind(
        ExitCode.SUSPENDED, True, "trips was altered during the import; the staging is kept."
    ),
    FailureCode.TABLE_MISMATCH: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "trips is not the loader's table, or has a column, constraint or index that these rows can't satisfy.",
    ),
    FailureCode.TABLE_REFERENCED: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "Another object, such as a foreign key or a view, depends on an import that is to leave trips.",
    ),
    FailureCode.IMPORT_DETACHED: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "The import is published, and somebody took its table out of trips, or its rows.",
    ),
    FailureCode.IMPORT_NOT_FOUND: FailureKind(
        ExitCode.USAGE, False, "The ledger has no import with this id."
    ),
    FailureCode.DATABASE_RIGHTS: FailureKind(
        ExitCode.CONFIGURATION, False, "The database role may not do what the loader has to."
    ),
    FailureCode.DATABASE_UNSUPPORTED: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "The database is read-only, not in UTF-8, behind a pooler that keeps no sessions, or older than PostgreSQL 15.",
    ),
    FailureCode.DATABASE_CONFIGURATION: FailureKind(
        ExitCode.CONFIGURATION,
        False,
        "The server refuses the role, password, database or TLS, has no schema public, or a limit of it is too low.",
    ),
    FailureCode.EMBEDDED_DATABASE: FailureKind(
        ExitCode.CONFIGURATION, False, "The embedded PostgreSQL could not be started."
    ),
    FailureCode.LOADER_KILLED: FailureKind(
        ExitCode.SUSPENDED,
        True,
        "Said by a supervisor: the loader was killed, fell silent or could not be started.",
    ),
    FailureCode.PROOF_FAILED: FailureKind(
        ExitCode.INTERNAL,
        False,
        "What is staged does not prove that the file is loaded whole; nothing was published.",
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


_UUID = r"^(?i:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(?!\n)$"


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be imported, and how. Read from stdin, never from argv, so that no secret shows in `ps`."""

    source: str  # http(s) address, path, or - for stdin (not under a supervisor: its stdin is the job's)
    # a UUID; None: go on with this source's staging, or begin anew
    import_id: Annotated[str, msgspec.Meta(pattern=_UUID)] | None = None
    mode: Mode = "append"
    # connections that load; None: one a core, up to 4
    workers: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_rejects: str = "0"  # a count, or a percentage such as "0.5%"
    force: bool = False  # import even if this very file is published already
    require_verified_length: bool = False  # publish nothing whose receipt would say `length_verified: false`
    on_sigterm: Literal["roll_back", "suspend"] = "roll_back"
    database_url: str | None = None  # None: DATABASE_URL, else the embedded server
    # A list, even an empty one: http(s) only, and only to public addresses and these names, IP addresses and CIDRs, each
    # with or without a port (address_policy.py). None: from anywhere.
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
    """What a published import proves. Rows parsed - rows rejected = rows copied = rows published."""

    import_id: str
    import_key: int  # trips.import_key of its rows
    source: str  # without credentials and query
    validator: str | None  # the ETag or Last-Modified that every response carried
    source_bytes: int  # as transferred, compressed or not
    data_bytes: int  # decompressed, header included; the blocks cover each byte after the header exactly once
    length_verified: bool  # a response announced the end of the file or marked it, and the file ended there
    blocks: int
    parts: int
    rows_parsed: int
    rows_copied: int
    rows_published: int
    rows_rejected: int
    attempts: int
    seconds: float  # of the last attempt
    published_at: str  # ISO 8601, UTC
    notes: list[str] = msgspec.field(default_factory=lambda: list[str]())


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the import stands. Rates are of the last seconds; None: not known, never invented."""

    bytes_done: int  # of the source as transferred, loaded in this or an earlier attempt
    bytes_total: int | None
    percent: float | None  # never 100 before the commit
    rows_loaded: int
    rows_rejected: int
    bytes_per_second: float | None
    rows_per_second: float | None
    eta_seconds: float | None


class Started(msgspec.Struct, frozen=True, tag_field="type", tag="started"):
    """First message: the process lives."""

    pid: int
    version: str


class Probed(msgspec.Struct, frozen=True, tag_field="type", tag="probed", omit_defaults=True):
    """The source was looked at and fits; the import is in the ledger."""

    import_id: str
    source: str
    bytes_total: int | None
    validator: str | None
    compression: Literal["gzip", "zstd"] | None
    attempt: int
    resumed: bool  # part of it was committed by an earlier attempt
    notes: list[str]


class ProgressMessage(msgspec.Struct, frozen=True, tag_field="type", tag="progress"):
    """Sent at each change of phase, and about once a second while bytes move."""

    phase: Phase
    progress: Progress


class Published(msgspec.Struct, frozen=True, tag_field="type", tag="published"):
    """Last message with exit 0."""

    receipt: Receipt


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="failed", omit_defaults=True):
    """Last message with any other exit. `staging`: none is left, kept for the next attempt, or not known."""

    failure: Failure
    staging: Literal["none", "kept", "unknown"]
    import_id: str | None = None


Message = Started | Probed | ProgressMessage | Published | Failed
