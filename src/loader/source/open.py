"""Where the file comes from: an address, a path or stdin, compressed or not, as ordered decompressed bytes. No Postgres.

Who looks inside is the caller; here bytes are only fetched, checked to be of one file, and decompressed.
"""

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
from loader.http.url import InvalidAddress, parse_address
from loader.limits import DEFAULT_LIMITS, SEQUENTIAL, Limits
from loader.source.base import RawSource, ended_early
from loader.source.compression import Compression, compression_of
from loader.source.decompress import Decompression, unpacked_head
from loader.source.file import STDIN, open_path, open_stdin, path_location
from loader.source.http import HttpSource
from loader.source.prefetch import Fill, prefetched

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class SourceInfo(msgspec.Struct, frozen=True):
    """What the probe found."""

    location: (
        str  # as shown to people and stored: no credentials, query or fragment; absolute path; - for stdin
    )
    size_bytes: int | None  # as transferred, compressed or not; None: not announced
    validator: (
        str | None
    )  # strong ETag, Last-Modified, or a path's mtime, inode and size; None: there is none
    compression: Compression | None  # by the first bytes, never by name or header
    resumable: bool  # bytes from the middle can be had again and proven to be of the same file
    readable_again: bool  # opened anew it begins anew, which no pipe does
    head: bytes  # the first bytes, decompressed, up to `head_bytes` of Limits
    head_is_whole: bool  # head is all there is
    digest: str | None  # of bytes as transferred, see base.py; None: no identity, as of stdin


class Source(Protocol):
    """One file. `probe` once, first; then `segments`, one after the other; `close` in any case."""

    @property
    def length_verified(self) -> bool:
        """The end is announced beforehand, or marked by what frames it. As long as `segments` has not reached it, maybe."""
        ...

    @property
    def compressed_bytes(self) -> int | None:
        """How much of a compressed file was read, from its beginning on; None: it is not compressed."""
        ...

    def probe(self) -> SourceInfo:
        """Look at the beginning. Raises LoaderError and SourceClosed."""
        ...

    def segments(self, start: int, end: int | None, pool: BufferPool) -> Iterator[Segment]:
        """Yield the decompressed bytes [start, end) in order, end None: all; the caller releases the buffers.

        `start` and `end` are known to be in the file: one that ends before them now is SOURCE_TRUNCATED.
        May be called again when the iterator is at its end, for stdin and what else is not resumable only further on.
        Compressed files are read from their beginning, or from where the last call ended if that is not behind
        `start`: ask for missing ranges in order. Raises LoaderError and SourceClosed.
        """
        ...

    def close(self) -> None:
        """From any thread, at any time: whatever waits ends soon, by SourceClosed. Never blocks."""
        ...


class _OpenedSource:
    def __init__(self, raw: RawSource, limits: Limits, closed: threading.Event) -> None:
        self._raw = raw
        self._limits = limits
        self._closed = closed
        self._location = ""
        self._size_bytes: int | None = None
        self._unpacking: Decompression | None = None

    @property
    def length_verified(self) -> bool:
        # a compressed file that is cut off between two members or frames is a whole one in itself
        return self._raw.length_verified

    @property
    def compressed_bytes(self) -> int | None:
        return None if self._unpacking is None else self._unpacking.consumed_bytes

    def probe(self) -> SourceInfo:
        return call_in_daemon_thread(self._probe, lambda: raise_if_closed(self._closed))

    def segments(self, start: int, end: int | None, pool: BufferPool) -> Iterator[Segment]:
        if self._unpacking is not None:
            fill, parallelism = self._unpacking.fill, SEQUENTIAL
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
            head, is_whole = unpacked_head(raw, compression, self._limits.head_bytes)
            self._unpacking = Decompression(self._raw, raw, compression, self._limits, self._closed)
        if is_whole and not head:
            raise LoaderError(
                FailureCode.EMPTY_FILE, f"{raw.location} is empty", "Check what should be there."
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
        """Return a `fill` for which a file that ends before `end` is truncated."""
        if end is None:
            return fill

        def filled(offset: int, view: memoryview) -> tuple[int, int]:
            count, source_bytes = fill(offset, view)
            if count < len(view):
                raise ended_early(self._location, offset + count, end)
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
) -> Source:
    """Choose by how `location` begins: http:// or https://, - for stdin, else a path.

    `allowed_hosts` as in Job. Raises LoaderError.
    """
    closed = threading.Event()
    policy = None if allowed_hosts is None else AddressPolicy(allowed_hosts)
    if policy is None and location == STDIN:
        return _OpenedSource(open_stdin(limits.head_bytes), limits, closed)
    if policy is None and _SCHEME.match(location) is None:
        return _OpenedSource(open_path(Path(location), limits.head_bytes), limits, closed)
    try:
        address = parse_address(location)
    except InvalidAddress as error:
        others = ", a path, or - for stdin" if policy is None else ""
        hint = f"Give an address that begins with http:// or https://{others}."
        raise LoaderError(FailureCode.USAGE, f"The address can't be used: {error}", hint) from None
    return _OpenedSource(HttpSource(address, Dialer(policy), limits, closed), limits, closed)


def shown_location(source: str) -> str | None:
    """Return the location under which the ledger has a source; None: it is stdin, or can't be one."""
    if source == STDIN:
        return None
    if _SCHEME.match(source) is None:
        return path_location(Path(source))
    try:
        return parse_address(source).location
    except InvalidAddress:
        return None
