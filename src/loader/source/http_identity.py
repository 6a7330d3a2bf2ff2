"""The identity of the file that a URL had at the probe: each later response must be of the same file.

Section numbers are those of RFC 9110.
"""

from __future__ import annotations

import email.utils
import time
from email.message import Message

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.client import Response
from loader.http.response import check_encoding, protocol_error, unsatisfied_total
from loader.http.retry import TransientError


class FileIdentity(msgspec.Struct, frozen=True):
    """What identifies the probed file."""

    location: str
    size_bytes: int | None = None
    validator: str | None = None
    head: bytes = b""  # its first bytes, as the probe read them

    def precondition(self) -> dict[str, str]:
        """Return the header that makes the server respond with 412 if the file has changed (13.1.1, 13.1.4)."""
        if self.validator is None:
            return {}
        return {"If-Match" if self.validator.startswith('"') else "If-Unmodified-Since": self.validator}

    def check_response(self, response: Response) -> None:
        """Return if a response is of this file. Raises LoaderError (mostly SOURCE_CHANGED) and TransientError."""
        check_encoding(response.headers, self.location)
        if response.status == 412:
            raise self.changed("its ETag or date differs (412)")
        if response.status == 416:
            self.check_size(unsatisfied_total(response.headers))
            raise protocol_error(self.location, "416 for a range within the announced size")
        if self.validator is not None:
            header = "ETag" if self.validator.startswith('"') else "Last-Modified"
            found = response.headers.get(header, "").strip()
            if not found:
                raise TransientError(protocol_error(self.location, f"a response lacks {header}"))
            if found != self.validator:
                raise self.changed("its ETag or date differs")

    def check_size(self, size_bytes: int | None) -> None:
        """Compare the announced size of the whole file; None on either side: not announced."""
        if self.size_bytes is not None and size_bytes not in (None, self.size_bytes):
            raise self.changed(f"it had {self.size_bytes:,} bytes and now has {size_bytes:,}")

    def changed(self, what: str) -> LoaderError:
        """Return the error of a file that is not the probed one."""
        hint = "Import it again when the file no longer changes."
        return LoaderError(FailureCode.SOURCE_CHANGED, f"{self.location} has changed: {what}", hint)


def validator_of(headers: Message) -> str | None:
    """Return the strong ETag (8.8.3), else the strong Last-Modified (8.8.2), else None: a weak one proves no bytes."""
    etag = headers.get("ETag", "").strip()
    validator = etag if etag.startswith('"') else _strong_date(headers)
    # it is sent back and stored, so a folded header or one with control characters does not count
    return validator if validator and validator.isprintable() else None


def _strong_date(headers: Message) -> str | None:
    """Return the Last-Modified if it is at least a second older than the response's Date (8.8.2.2).

    Within a younger second the file may change once more. Without a Date the response is of now (6.6.1).
    """
    modified = headers.get("Last-Modified", "").strip()
    try:
        age_seconds = (
            _timestamp(headers.get("Date")) - email.utils.parsedate_to_datetime(modified).timestamp()
        )
    except (ValueError, OverflowError):
        return None
    return modified if age_seconds >= 1 else None


def _timestamp(date: str | None) -> float:
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return time.time()
