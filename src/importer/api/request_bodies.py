"""The bodies of requests as structs, and how they are read: strictly, with every URL checked.

Litestar's own reading takes "2" for the number 2 and ignores the Content-Type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, TypeVar, cast

import msgspec
import uuid_utils.compat
from msgspec import Meta

from importer.api.problems import FieldError, ProblemCode, RequestProblem, invalid_fields
from importer.api.requests import AnyRequest
from importer.api.schemas import Mode
from importer.model import JobChanges
from importer.settings import MAX_WORKERS
from loader.contract import Job
from loader.http.url import InvalidUrl, parse_url

MAX_BODY_BYTES = 64 * 1024  # several times the longest URL
# Signed URLs have some hundred characters; RFC 9110, 4.1, recommends to support at least 8,000.
MAX_URL_CHARACTERS = 8_000
MAX_LABEL_CHARACTERS = 200

# A body of another API may have thousands.
_MAX_UNKNOWN_FIELDS = 10

T = TypeVar("T", bound=msgspec.Struct)

# Where msgspec's message would quote a pattern, or not list the values.
_EXPECTED = {
    "max_rejects": 'a text: a count such as "5", or a percentage such as "0.5%"',
    "mode": " or ".join(Mode),
}

SourceUrl = Annotated[
    str,
    Meta(
        description="The http or https URL of the CSV file: plain, gzip or zstd. Credentials and query are used, never"
        " shown.",
        min_length=1,
        max_length=MAX_URL_CHARACTERS,
        examples=["https://example.org/fhvhv_tripdata_2024-01.csv"],
        extra_json_schema={"format": "uri"},
    ),
]

# A text, also for a count: one type in requests and responses.
MaxRejects = Annotated[
    str,
    Meta(
        description="The rows that may be rejected: a count, or a percentage of all rows.",
        pattern=r"^([0-9]{1,15}|([0-9]{1,2}(\.[0-9]{1,6})?|100)%)(?!\n)$",
        examples=["0", "0.5%"],
    ),
]

Workers = Annotated[int, Meta(ge=1, le=MAX_WORKERS)]


class NewImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file to import, and how."""

    url: SourceUrl
    label: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_LABEL_CHARACTERS)] | None,
        Meta(description="Your name for the import, since the query of its URL is not shown. Any text."),
    ] = None
    mode: Annotated[
        Mode, Meta(description="Append to trips, or replace all rows of trips when the import is published.")
    ] = Mode.APPEND
    max_rejects: MaxRejects = "0"
    workers: Annotated[
        Workers | None,
        Meta(description="Database connections that load in parallel; null: the service's setting."),
    ] = None
    force: Annotated[bool, Meta(description="Import the file even if it is published already.")] = False
    require_verified_length: Annotated[
        bool,
        Meta(
            description="Refuse a file without an announced length: a truncated download can't be detected."
        ),
    ] = False
    ignore_etag: Annotated[
        bool,
        Meta(
            description="Identify the file by its size, Last-Modified and ends, if the nodes of its server send different"
            " ETags."
        ),
    ] = False

    def job(self) -> Job:
        """Return the job as the control DB keeps it, with a new id."""
        return Job(
            source=self.url,
            import_id=str(uuid_utils.compat.uuid7()),
            mode="replace" if self.mode is Mode.REPLACE else "append",
            workers=self.workers,
            max_rejects=self.max_rejects,
            force=self.force,
            require_verified_length=self.require_verified_length,
            ignore_etag=self.ignore_etag,
        )


class RetryImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a retry changes. An omitted field stays as it is."""

    url: Annotated[
        SourceUrl | None,
        Meta(description="Another URL of the same file, such as one with a new signature; null: no change."),
    ] = None
    max_rejects: Annotated[
        MaxRejects | None,
        Meta(description="The rows that may be rejected: a count, or a percentage; null: no change."),
    ] = None
    workers: Annotated[
        Workers | None, Meta(description="Database connections that load in parallel; null: no change.")
    ] = None

    def changes(self) -> JobChanges:
        """Return the changes of the job."""
        return JobChanges(source=self.url, max_rejects=self.max_rejects, workers=self.workers)


def read_new_import(request: AnyRequest, body: bytes) -> NewImport:
    """Return the requested import. Raises UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST, INVALID_URL."""
    new_import = _read(request, body, NewImport)
    _check_url(new_import.url)
    return new_import


def read_retry(request: AnyRequest, body: bytes) -> RetryImport:
    """Return the requested changes; an empty body changes nothing. Raises as read_new_import does."""
    if not body:
        return RetryImport()
    changes = _read(request, body, RetryImport)
    if changes.url is not None:
        _check_url(changes.url)
    return changes


def _check_url(url: str) -> None:
    try:
        parse_url(url)
    except InvalidUrl as error:
        raise RequestProblem(ProblemCode.INVALID_URL, f"The url is not valid: {error}.") from error


def _number(text: str) -> float:
    """Return a number of the body: 2.0 is an integer for JSON Schema and for JavaScript."""
    value = float(text)
    return int(value) if value.is_integer() else value


_DECODER = msgspec.json.Decoder(float_hook=_number)


def _read(request: AnyRequest, body: bytes, body_type: type[T]) -> T:
    # A browser lets a page of another site send every other type without a preflight request.
    media_type, _ = request.content_type
    if media_type.lower() != "application/json":
        raise RequestProblem(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"The Content-Type is {media_type or 'missing'!a}."
        )
    if not body:
        raise RequestProblem(ProblemCode.INVALID_REQUEST, "The request has no body; send a JSON object.")
    try:
        decoded = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # nested too deeply
        raise RequestProblem(ProblemCode.INVALID_REQUEST, f"The body is not valid JSON: {error}.") from error
    if not isinstance(decoded, dict):
        raise RequestProblem(ProblemCode.INVALID_REQUEST, "The body is not a JSON object.")
    fields = cast("dict[str, object]", decoded)
    if isinstance(url := fields.get("url"), str):
        fields["url"] = url.strip()  # pasted
    errors = list(_field_errors(fields, body_type))
    if errors:
        raise invalid_fields(errors)
    return msgspec.convert(fields, body_type)


def _field_errors(fields: Mapping[str, object], body_type: type[msgspec.Struct]) -> Iterator[FieldError]:
    """Yield what is wrong with each field. msgspec reports the first one only, and a missing or unknown one by text."""
    known = {field.encode_name: field for field in msgspec.structs.fields(body_type)}
    unknown = [name for name in fields if name not in known]
    for name in unknown[:_MAX_UNKNOWN_FIELDS]:
        yield FieldError(name, f"Unknown field; the fields are {', '.join(known)}")
    for name, field in known.items():
        if name not in fields:
            if field.required:
                yield FieldError(name, "Required field")
            continue
        try:
            msgspec.convert(fields[name], field.type)
        except msgspec.ValidationError as error:
            expected = _EXPECTED.get(name)
            yield FieldError(name, f"Expected {expected}" if expected is not None else str(error))
