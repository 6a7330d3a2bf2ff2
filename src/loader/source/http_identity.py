"""The identity of the file that a URL had at the probe: each later response must be of the same file.

Section numbers are those of RFC 9110.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from email.message import Message

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.client import HttpClient, Response
from loader.http.response import check_encoding, content_range, protocol_error, shown, unsatisfied_total
from loader.http.retry import TransientError


class NodesDisagree(LoaderError):
    """A server sends different ETags for a file of equal size and date."""

    def __init__(self, location: str, etag: str, other: str) -> None:
        super().__init__(
            FailureCode.SOURCE_PROTOCOL,
            f"{location}: the server sends different ETags, {shown(etag)} and {shown(other)}, with equal size and"
            " Last-Modified, as the nodes behind a load balancer may do",
            "If the nodes have the same file, start a new import with --ignore-etag (`ignore_etag` in a request): size,"
            " Last-Modified and the first and last bytes then identify the file. Otherwise use the URL of one node.",
        )


class FileIdentity(msgspec.Struct, frozen=True):
    """What identifies the probed file."""

    location: str
    size_bytes: int | None = None
    validator: str | None = None
    head: bytes = b""  # its first bytes, as the probe read them
    modified: str | None = None  # its strong Last-Modified, also if that is not the validator

    def request(self, client: HttpClient, headers: Mapping[str, str]) -> Response:
        """Send a request for the file. Raises as `HttpClient.get`; `check_response` is left to the caller."""
        response = client.get({**headers, **self._precondition()})
        if response.status == 412:  # its headers do not say what differs; those of the file do
            response.finish()
            response = client.get(headers)
        return response

    def _precondition(self) -> dict[str, str]:
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
                raise self._other_validator(response, header, found)

    def check_size(self, size_bytes: int | None) -> None:
        """Compare the announced size of the whole file; None on either side: not announced."""
        if self.size_bytes is not None and size_bytes not in (None, self.size_bytes):
            raise self.changed(f"it had {self.size_bytes:,} bytes and now has {size_bytes:,}")

    def _other_validator(self, response: Response, header: str, found: str) -> LoaderError:
        """Return the error of another ETag or date. A server of several nodes may have an ETag for each of them."""
        span = content_range(response.headers)
        size_bytes = response.announced_bytes if span is None else span.total
        modified = response.headers.get("Last-Modified", "").strip()
        known = self.validator or ""
        if header == "ETag" and self.modified == modified and self.size_bytes == size_bytes is not None:
            return NodesDisagree(self.location, known, found)
        return self.changed(f"its {header} was {shown(known)} and is {shown(found)}")

    def changed(self, what: str) -> LoaderError:
        """Return the error of a file that is not the probed one."""
        hint = "Import it again when the file no longer changes."
        return LoaderError(FailureCode.SOURCE_CHANGED, f"{self.location} has changed: {what}", hint)


def strong_etag(headers: Message) -> str | None:
    """Return the ETag if it is a strong one (8.8.3): a weak one proves no bytes."""
    etag = headers.get("ETag", "").strip()
    return etag if etag.startswith('"') and _is_storable(etag) else None


def strong_date(headers: Message) -> str | None:
    """Return the Last-Modified if it is at least a second older than the response's Date, and so a strong one (8.8.2.2).

    Within a younger second the file may change once more. Without a Date the response is of now (6.6.1).
    """
    modified = headers.get("Last-Modified", "").strip()
    try:
        age_seconds = (
            _timestamp(headers.get("Date")) - email.utils.parsedate_to_datetime(modified).timestamp()
        )
    except (ValueError, OverflowError):
        return None
    return modified if age_seconds >= 1 and _is_storable(modified) else None


def _is_storable(validator: str) -> bool:
    """Whether it can be sent back and stored: a folded header or one with control characters can not."""
    return validator.isprintable()


def _timestamp(date: str | None) -> float:
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return time.time()
