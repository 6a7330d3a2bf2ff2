"""The source of a file: a URL, a path or stdin, compressed or not, as ordered decompressed bytes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from loader.buffers import BufferPool, Segment
from loader.cancellation import call_in_daemon_thread, raise_if_closed
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.address_policy import AddressPolicy
from loader.http.connection import Dialer
from loader.http.url import InvalidUrl, parse_url
from loader.limits import DEFAULT_LIMITS, SEQUENTIAL, Limits
from loader.source.base import RawSource, truncated_error
from loader.source.compression import Compression, compression_of
from loader.source.decompress import Decompression, decompressed_head
from loader.source.file import STDIN, open_path, open_stdin, path_location
from loader.source.http import HttpSource
from loader.source.prefetch import Fill, prefetched

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class SourceInfo(msgspec.Struct, frozen=True):
    """The result of a probe."""

    # As shown and stored: without credentials, query and fragment; absolute path; - for stdin.
    location: str
    size_bytes: int | None  # as transferred, compressed or not; None: not announced
    # A strong ETag or Last-Modified, or a path's mtime, inode and size; None: there is none.
    validator: str | None
    compression: Compression | None  # by the first bytes, never by name or header
    resumable: bool  # see RawInfo
    readable_again: bool  # see RawInfo
    head: bytes  # the first bytes, decompressed, up to `head_bytes` of Limits
    head_is_whole: bool  # the head is the whole file
    digest: str | None  # see RawInfo


class Source(Protocol):
    """One file. Call `probe` once, first; then `segments`, one call after the other; `close` in any case."""

    @property
    def length_verified(self) -> bool:
        """See RawSource."""
        ...

    @property
    def compressed_bytes(self) -> int | None:
        """How many bytes of a compressed file were read, from its beginning on; None: not compressed."""
        ...

    def probe(self) -> SourceInfo:
        """Read the first bytes. Raises LoaderError and SourceClosed."""
        ...

    def segments(self, start: int, end: int | None, pool: BufferPool) -> Iterator[Segment]:
        """Yield the decompressed bytes [start, end) in order; `end` None: to the end. The caller releases the buffers.

        May be called again after the last segment; for a source that is not resumable, only with a higher `start`. A
        compressed file is read from its beginning, or from where the last call ended if `start` is not lower: request
        missing ranges in order. Raises SourceClosed and LoaderError, with SOURCE_TRUNCATED for a file that ends before
        `start` or `end`.
        """
        ...

    def close(self) -> None:
        """Abort pending reads with SourceClosed. Never blocks; may be called from any thread at any time."""
        ...


class _OpenedSource:
    def __init__(self, raw: RawSource, limits: Limits, closed: threading.Event) -> None:
        self._raw = raw
        self._limits = limits
        self._closed = closed
        self._location = ""
        self._size_bytes: int | None = None
        self._decompression: Decompression | None = None

    @property
    def length_verified(self) -> bool:
        # a compressed file that is truncated between two members or frames looks complete
        return self._raw.length_verified

    @property
    def compressed_bytes(self) -> int | None:
        return None if self._decompression is None else self._decompression.consumed_bytes

    def probe(self) -> SourceInfo:
        return call_in_daemon_thread(self._probe, lambda: raise_if_closed(self._closed))

    def segments(self, start: int, end: int | None, pool: BufferPool) -> Iterator[Segment]:
        if self._decompression is not None:
            fill, parallelism = self._decompression.fill, SEQUENTIAL
        else:
            fill, parallelism = self._fill, self._raw.parallelism
            if self._size_bytes is not None:
                end = self._size_bytes if end is None else min(end, self._size_bytes)
        return prefetched(self._filling(fill, end), start, end, pool, parallelism, self._closed)

    def close(self) -> None:
        self._closed.set()
        self._raw.close()

    def _probe(self) -> SourceInfo:
        raw = self._raw.probe()
        self._location, self._size_bytes = raw.location, raw.size_bytes
        head, is_whole = raw.head, raw.head_is_whole
        compression = compression_of(head)
        if compression is not None:
            head, is_whole = decompressed_head(raw, compression, self._limits.head_bytes)
            self._decompression = Decompression(self._raw, raw, compression, self._limits, self._closed)
        if is_whole and not head:
            raise LoaderError(
                FailureCode.EMPTY_FILE,
                f"{raw.location} is empty",
                "Check whether the export that writes it failed, or is not finished.",
            )
        return SourceInfo(
            location=raw.location,
            size_bytes=raw.size_bytes,
            validator=raw.validator,
            compression=compression,
            resumable=raw.resumable,
            readable_again=raw.readable_again,
            head=head,
            head_is_whole=is_whole,
            digest=raw.digest,
        )

    def _filling(self, fill: Fill, end: int | None) -> Fill:
        """Return a `fill` that raises SOURCE_TRUNCATED for a file that ends before `end`."""
        if end is None:
            return fill

        def filled(offset: int, view: memoryview) -> tuple[int, int]:
            count, source_bytes = fill(offset, view)
            if count < len(view):
                raise truncated_error(self._location, offset + count, end)
            return count, source_bytes

        return filled

    def _fill(self, offset: int, view: memoryview) -> tuple[int, int]:
        count = self._raw.read_at(offset, view)
        return count, count


def open_source(
    location: str,
    limits: Limits = DEFAULT_LIMITS,
    *,
    allowed_hosts: list[str] | None = None,
    ignore_etag: bool = False,
) -> Source:
    """Open a URL (http:// or https://), - for stdin, or a path.

    `allowed_hosts` and `ignore_etag` as in Job. Raises LoaderError.
    """
    location = _trimmed(location)
    closed = threading.Event()
    policy = None if allowed_hosts is None else AddressPolicy(allowed_hosts)
    if policy is None and location == STDIN:
        return _OpenedSource(open_stdin(limits.head_bytes), limits, closed)
    if policy is None and _SCHEME.match(location) is None:
        return _OpenedSource(open_path(Path(location), limits.head_bytes), limits, closed)
    try:
        url = parse_url(location)
    except InvalidUrl as error:
        others = ", a path, or - for stdin" if policy is None else ""
        hint = f"Use a URL that starts with http:// or https://{others}."
        raise LoaderError(FailureCode.USAGE, f"The URL can't be used: {error}", hint) from None
    raw = HttpSource(url, Dialer(policy), limits, closed, ignore_etag=ignore_etag)
    return _OpenedSource(raw, limits, closed)


def shown_location(source: str) -> str | None:
    """Return the location of a source in the ledger; None: it is stdin, or no valid source."""
    source = _trimmed(source)
    if source == STDIN:
        return None
    if _SCHEME.match(source) is None:
        return path_location(Path(source))
    try:
        return parse_url(source).location
    except InvalidUrl:
        return None


def _trimmed(source: str) -> str:
    """Return a source without the white space around a pasted URL; that around a path is part of its name."""
    trimmed = source.strip()
    return trimmed if _SCHEME.match(trimmed) else source
