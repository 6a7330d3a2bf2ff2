"""The bodies of requests, those of POST /imports and of a retry: read strictly, their URLs looked at."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import uuid_utils.compat

from importer.api.lookup import AnyRequest
from importer.api.problems import FieldError, ProblemCode, RequestProblem
from importer.api.schemas import NewImport, RetryImport
from loader.contract import Job
from loader.http.url import InvalidAddress, parse_address

T = TypeVar("T")


def read_job(request: AnyRequest, body: bytes) -> Job:
    """Return what is asked for, with a new id. Raises UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST, INVALID_URL."""
    new_import = _read(request, body, NewImport)
    _check_url(new_import.url)
    return new_import.job(uuid_utils.compat.uuid7())


def read_retry(request: AnyRequest, body: bytes) -> RetryImport:
    """Return what is to change; an empty body changes nothing. Raises as read_job does."""
    if not body:
        return RetryImport()
    changes = _read(request, body, RetryImport)
    if changes.url is not None:
        _check_url(changes.url)
    return changes


def _check_url(url: str) -> None:
    try:
        parse_address(url)
    except InvalidAddress as error:
        raise RequestProblem(ProblemCode.INVALID_URL, f"The url can't be used: {error}.") from error


def _number(text: str) -> float:
    value = float(text)
    return (
        int(value) if value.is_integer() else value
    )  # 2.0 is an integer, for JSON Schema and for JavaScript


_DECODER = msgspec.json.Decoder(float_hook=_number)


def _read(request: AnyRequest, body: bytes, body_type: type[T]) -> T:
    # A page of another site may send all other types without being asked whether it may: this keeps those out, too.
    media_type, _ = request.content_type
    if media_type.lower() != "application/json":
        raise RequestProblem(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"The Content-Type is {media_type or 'missing'!a}."
        )
    try:
        return msgspec.convert(_DECODER.decode(body), body_type)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        fault = FieldError(path.removesuffix("`"), message)
        raise RequestProblem(ProblemCode.INVALID_REQUEST, f"{error}.", errors=[fault]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # nested too deeply
        raise RequestProblem(
            ProblemCode.INVALID_REQUEST, f"The body can't be read as JSON: {error}."
        ) from error
