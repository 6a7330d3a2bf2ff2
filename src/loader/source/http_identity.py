"""Which file an address had at the probe: every later answer has to be of the same one.

Sections are those of RFC 9110.
"""

from __future__ import annotations

import email.utils
import time
from email.message import Message

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.client import Response
from loader.http.response import check_coding, protocol_error, unsatisfied_total
from loader.http.retry import TransientError


class HttpFile(msgspec.Struct, frozen=True):
    """What identifies the probed file."""

    location: str
    size_bytes: int | None = None
    validator: str | None = None
    head: bytes = b""  # its first bytes, as the probe read them

    def precondition(self) -> dict[str, str]:
        """Return the header that makes a changed file answer 412 instead of its bytes (13.1.1, 13.1.4)."""
        if self.validator is None:
            return {}
        return {"If-Match" if self.validator.startswith('"') else "If-Unmodified-Since": self.validator}

    def check_answer(self, answer: Response) -> None:
        """Let a 200 or 206 of this file pass. Raises LoaderError (mostly SOURCE_CHANGED) and AttemptFailed."""
        check_coding(answer.headers, self.location)
        if answer.status == 412:
            raise self.changed("the server says that its ETag or date is another one (412)")
        if answer.status == 416:
            self.check_size(unsatisfied_total(answer.headers))
            raise protocol_error(self.location, "it has no bytes where it said that it has some (416)")
        if self.validator is not None:
            found = answer.headers.get(
                "ETag" if self.validator.startswith('"') else "Last-Modified", ""
            ).strip()
            if not found:
                what = "an answer lacks the ETag or date that the first one had"
                raise TransientError(protocol_error(self.location, what))
            if found != self.validator:
                raise self.changed("its ETag or date is another one")

    def check_size(self, size_bytes: int | None) -> None:
        """Compare what an answer says of the whole file's size; None on either side: nothing is said."""
        if self.size_bytes is not None and size_bytes not in (None, self.size_bytes):
            raise self.changed(f"it had {self.size_bytes:,} bytes, and now {size_bytes:,}")

    def changed(self, what: str) -> LoaderError:
        """Make the error of a file that is not the probed one."""
        hint = "Roll the import back and begin anew, when the file has stopped changing."
        return LoaderError(FailureCode.SOURCE_CHANGED, f"{self.location} has changed: {what}", hint)


def validator_of(headers: Message) -> str | None:
    """Return the strong ETag (8.8.3), else the strong Last-Modified (8.8.2), else None: a weak one proves no bytes."""
    etag = headers.get("ETag", "").strip()
    validator = etag if etag.startswith('"') else _strong_date(headers)
    # it is sent back and stored: a header folded over lines, or with control characters, is none
    return validator if validator and validator.isprintable() else None


def _strong_date(headers: Message) -> str | None:
    """Return the Last-Modified if it is at least a second older than the response's Date (8.8.2.2).

    The file may change once more within a younger one's second. Without Date the response is of now (6.6.1).
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
