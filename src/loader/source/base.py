"""What every place that bytes come from offers: a look at its beginning, and bytes by offset, as they are transferred."""

from __future__ import annotations

import hashlib
from typing import Protocol

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import Parallelism

# The end of the file that its digest covers beside the head: where exports of one table differ, and a moment's transfer.
TAIL_BYTES = 64 * 1024


def ended_early(location: str, end: int, known_bytes: int) -> LoaderError:
    """Make the error of a file that ends at `end`, and of which `known_bytes` were read before: more than that."""
    return LoaderError(
        FailureCode.SOURCE_TRUNCATED,
        f"{location} ends after {end:,} bytes; {known_bytes:,} or more were read of it before",
        "Try again: the same command goes on from what is loaded.",
    )


def digest_of(head: bytes | bytearray, tail: bytes | bytearray) -> str:
    """Return the SHA-256 of a file's first bytes, followed by that of its last ones where they are known.

    64 or 128 hexadecimal digits: of two digests of one file the longer begins with the shorter.
    """
    return "".join(hashlib.sha256(each).hexdigest() for each in (head, tail) if each)


class RawInfo(msgspec.Struct, frozen=True):
    """What the first look found. Everything is as transferred: compressed bytes where the file is compressed."""

    location: str  # as shown to people and stored: no credentials, query or fragment
    size_bytes: int | None  # None: not announced
    validator: str | None
    resumable: bool  # bytes from the middle can be had again and proven to be of the same file
    readable_again: bool  # opened anew it begins anew, which no pipe does
    head: bytes  # the first bytes, up to `head_bytes` of Limits
    head_is_whole: bool  # head is all there is
    digest: str | None  # see `digest_of`; None: read once, as a pipe is, it has no identity


class RawSource(Protocol):
    """One file, stream or address. `probe` comes first, once; `close` from any thread, at any time."""

    @property
    def parallelism(self) -> Parallelism:
        """How many threads may be in `read_at` at once. SEQUENTIAL: offsets only go forward, or more would not help."""
        ...

    @property
    def length_verified(self) -> bool:
        """The end is announced beforehand, or marked, not just where the bytes stop.

        False at the probe stays so; true may become false until the end is reached.
        """
        ...

    def probe(self) -> RawInfo:
        """Look at the beginning. Raises LoaderError."""
        ...

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill `view` with the bytes from `offset` on; return how many: fewer only at the end. Raises LoaderError."""
        ...

    def close(self) -> None:
        """Make whatever waits for bytes end soon. Never blocks."""
        ...
