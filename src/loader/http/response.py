"""Headers and failures of HTTP responses: ranges, encodings, lengths, status codes.

Section numbers are those of RFC 9110.
"""

from __future__ import annotations

import http.client
import re
from email.message import Message

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.retry import TransientError, retry_after_seconds
from loader.http.url import HttpUrl

# Of a server's header in a message: headers may be 64 KiB long.
_MAX_SHOWN_CHARACTERS = 80
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")
# Encodings that the bytes themselves show (gzip, zstd), and those without effect. aws-chunked is left over from an upload:
# S3 keeps it with the object.
_READABLE_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "zstd", "aws-chunked"})
# What http.client decodes, and what has no effect. With any other one it would take the frames for data.
_READABLE_TRANSFER_ENCODINGS = frozenset({"", "identity", "chunked"})
# Less than an exabyte, as the numbers of a Content-Range.
_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")


class ContentRange(msgspec.Struct, frozen=True):
    """A Content-Range header (14.4): bytes first..end-1 of total; total None: not given."""

    first: int
    end: int
    total: int | None


def content_range(headers: Message) -> ContentRange | None:
    """Parse the Content-Range of a 206; None when it is absent or invalid."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None or match[1] is None:
        return None
    first, end = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if first >= end or (total is not None and end > total):
        return None
    return ContentRange(first, end, total)


def unsatisfied_total(headers: Message) -> int | None:
    """Parse the size of the file in the Content-Range of a 416: `bytes */size`."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    return int(match[3]) if match is not None and match[1] is None and match[3] != "*" else None


def check_encoding(headers: Message, location: str) -> None:
    """Raise SOURCE_PROTOCOL for an encoding that was not requested and that the bytes do not show."""
    for encoding in headers.get("Content-Encoding", "").split(","):
        if encoding.strip().lower() not in _READABLE_ENCODINGS:
            raise protocol_error(location, f"unexpected Content-Encoding {shown(encoding)}")
    transfer_encoding = headers.get("Transfer-Encoding", "")
    if transfer_encoding.lower() not in _READABLE_TRANSFER_ENCODINGS:
        raise protocol_error(location, f"unexpected Transfer-Encoding {shown(transfer_encoding)}")


def announced_length(headers: Message, location: str) -> int | None:
    """Return the Content-Length in bytes, or None when there is none.

    Raises SOURCE_PROTOCOL for an invalid length, and for several that differ (RFC 9112, 6.3).
    """
    lengths = {value.strip() for value in headers.get_all("Content-Length", [])}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or _CONTENT_LENGTH.fullmatch(length) is None:
        raise protocol_error(location, f"invalid Content-Length {shown(length)}")
    return int(length)


def truncated_body(location: str, missing_bytes: int) -> TransientError:
    """Return the error of a body that ends before its announced end."""
    return TransientError(
        LoaderError(
            FailureCode.SOURCE_TRUNCATED,
            f"{location}: a response ends {missing_bytes:,} bytes before its announced end",
            "Run the same command again to resume.",
        )
    )


def check_status(status: int, headers: Message, url: HttpUrl) -> None:
    """Return for 200, 204, 206, 412 and 416. Raises TransientError for a status that may pass, LoaderError for others."""
    message = f"{url.location} responds with {status} {http.client.responses.get(status, '')}".rstrip()
    if status in (200, 204, 206, 412, 416):
        return
    if status in (404, 410):
        raise LoaderError(FailureCode.SOURCE_NOT_FOUND, message, "Check the URL.")
    if status in (401, 403, 407, 451):
        hint = "A signed URL may have expired: get a new one. Otherwise check the credentials and the file's permissions."
        raise LoaderError(FailureCode.SOURCE_FORBIDDEN, message, hint)
    if status in (202, 408, 425, 429) or status >= 500:
        hint = "Run the same command again later to resume."
        if status == 202:
            message += ": the file is not ready yet"
        raise TransientError(
            LoaderError(FailureCode.SOURCE_UNREACHABLE, message, hint),
            retry_after_seconds=retry_after_seconds(headers.get("Retry-After")),
            is_overloaded=status in (429, 503),
            is_pending=status == 202,
        )
    hint = "Try the URL with another client, such as curl --include."
    if status == 400 and url.scheme == "http":  # as many servers respond to HTTP where they expect TLS
        hint = f"If the server expects TLS on port {url.port}, start the URL with https://. Otherwise: {hint}"
    raise LoaderError(FailureCode.SOURCE_PROTOCOL, message, hint)


def protocol_error(location: str, what: str) -> LoaderError:
    """Return the error of a server whose responses can't be trusted."""
    hint = "Try another URL of the file, or download it and import the copy."
    return LoaderError(FailureCode.SOURCE_PROTOCOL, f"{location}: {what}", hint)


def shown(header: str) -> str:
    """Quote a server's header for a message: no control characters, not too long."""
    return ascii(header.strip()[:_MAX_SHOWN_CHARACTERS])
