"""What an HTTP response says: its range, its coding, and what a status or a broken connection means for the import.

Sections are those of RFC 9110.
"""

from __future__ import annotations

import http.client
import re
import ssl
from email.message import Message

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.retry import TransientError, retry_after_seconds

# What a server claims is shown, but cut: a header may be 64 KiB long.
_SHOWN_CHARACTERS = 80
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")
# Codings that the bytes themselves tell (gzip, zstd), and those that leave them as they are. aws-chunked is a
# leftover of the upload that S3 keeps with an object.
_READABLE_CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "zstd", "aws-chunked"})
# What http.client undoes, and what is nothing. Of any other it takes the frames for data.
_READABLE_TRANSFERS = frozenset({"", "identity", "chunked"})
# Below an exabyte, as the numbers of a Content-Range.
_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")


class ContentRange(msgspec.Struct, frozen=True):
    """A Content-Range header (14.4): bytes first..end-1 of total; total None: not told."""

    first: int
    end: int
    total: int | None


def content_range(headers: Message) -> ContentRange | None:
    """Read the Content-Range of a 206; None when it is absent or senseless."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None or match[1] is None:
        return None
    first, end = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if first >= end or (total is not None and end > total):
        return None
    return ContentRange(first, end, total)


def unsatisfied_total(headers: Message) -> int | None:
    """Read the size of the file from the Content-Range of a 416: `bytes */size`."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    return int(match[3]) if match is not None and match[1] is None and match[3] != "*" else None


def check_coding(headers: Message, location: str) -> None:
    """Raise SOURCE_PROTOCOL for a coding that was not asked for and that the bytes do not tell."""
    for coding in headers.get("Content-Encoding", "").split(","):
        if coding.strip().lower() not in _READABLE_CODINGS:
            raise protocol_error(
                location, f"it sends Content-Encoding {shown(coding)}, which nobody asked for"
            )
    transfer = headers.get("Transfer-Encoding", "")
    if transfer.lower() not in _READABLE_TRANSFERS:
        raise protocol_error(
            location, f"it sends Transfer-Encoding {shown(transfer)}, which nobody asked for"
        )


def announced_length(headers: Message, location: str) -> int | None:
    """Return the body's length in bytes by Content-Length; None: there is none.

    Raises SOURCE_PROTOCOL for a length that can't be read, and for several that differ (RFC 9112, 6.3).
    """
    lengths = {value.strip() for value in headers.get_all("Content-Length", [])}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or _CONTENT_LENGTH.fullmatch(length) is None:
        raise protocol_error(location, f"Content-Length {shown(length)} is not the length of a file")
    return int(length)


def cut_off(location: str, missing_bytes: int) -> TransientError:
    """Make the failure of a body that ends before its announced end."""
    return TransientError(
        LoaderError(
            FailureCode.SOURCE_TRUNCATED,
            f"{location}: a response ends {missing_bytes:,} bytes before its announced end",
            "Try again: the same command resumes from what is loaded.",
        )
    )


def check_status(status: int, headers: Message, location: str) -> None:
    """Raise LoaderError for a status that will stay, AttemptFailed for one that may pass; return for the others."""
    said = f"{location} answers {status} {http.client.responses.get(status, '')}".rstrip()
    if status in (200, 206, 412, 416):
        return
    if status in (404, 410):
        raise LoaderError(FailureCode.SOURCE_NOT_FOUND, said, "Check the address.")
    if status in (401, 403, 407, 451):
        hint = "A signed address may have expired: get a new one. Else check the credentials and the file's rights."
        raise LoaderError(FailureCode.SOURCE_FORBIDDEN, said, hint)
    if status in (408, 425, 429) or status >= 500:
        raise TransientError(
            LoaderError(FailureCode.SOURCE_UNREACHABLE, said, "Try again later: the same command goes on."),
            retry_after_seconds=retry_after_seconds(headers.get("Retry-After")),
            is_overloaded=status in (429, 503),
        )
    raise LoaderError(
        FailureCode.SOURCE_PROTOCOL, said, "Look at the address with another client, such as curl --include."
    )


def protocol_error(location: str, what: str) -> LoaderError:
    """Make the error of a server whose answers can't be trusted."""
    hint = "Another address of the file may be served better; else download it and import the copy."
    return LoaderError(FailureCode.SOURCE_PROTOCOL, f"{location}: {what}", hint)


def failed_attempt(error: OSError | http.client.HTTPException, location: str) -> TransientError | LoaderError:
    """Name what broke a request, by the exception's type: its text may quote the address, or the server."""
    code, hint = FailureCode.SOURCE_UNREACHABLE, "Check address and network; the same command goes on."
    match error:
        case ssl.SSLCertVerificationError():
            what = f"its certificate is not trusted ({error.verify_message})"
            return LoaderError(
                code, f"{location}: {what}", "Set SSL_CERT_FILE to the authority's certificate."
            )
        case http.client.IncompleteRead():
            code, what = FailureCode.SOURCE_TRUNCATED, "the answer ends before its last chunk"
        case http.client.RemoteDisconnected():
            what = "the server hung up instead of answering"
        case http.client.HTTPException():
            what = "the answer is not HTTP, or has headers without end"
        case TimeoutError():
            what = "the server is too slow, or silent"
        case _:
            what = error.strerror or type(error).__name__
    return TransientError(LoaderError(code, f"{location}: {what}", hint))


def shown(claim: str) -> str:
    """Quote what a server claims: no control characters, not too long."""
    return ascii(claim.strip()[:_SHOWN_CHARACTERS])
