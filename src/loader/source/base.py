"""The interface of all raw sources: a probe, and bytes by offset as they are transferred."""

from __future__ import annotations

import hashlib
from typing import Protocol

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import Parallelism

# The digest covers them, too: exports of one table differ at their end. They take a moment to transfer.
TAIL_BYTES = 64 * 1024


def truncated_error(location: str, end: int, known_bytes: int) -> LoaderError:
    """Return the error of a file that ends at `end`, although `known_bytes`, which are more, were read of it before."""
    return LoaderError(
        FailureCode.SOURCE_TRUNCATED,
        f"{location} ends after {end:,} bytes, but at least {known_bytes:,} were read before",
        "Run the same command again to resume.",
    )


def digest_of(head: bytes | bytearray, tail: bytes | bytearray) -> str:
    """Return the SHA-256 of a file's first bytes, followed by that of its last bytes if they are known.

    64 or 128 hexadecimal digits. Of two digests of one file, the longer starts with the shorter.
    """
    return "".join(hashlib.sha256(each).hexdigest() for each in (head, tail) if each)


class RawInfo(msgspec.Struct, frozen=True):
    """The result of a probe, as transferred: of a compressed file, compressed bytes."""

    location: str  # as shown to people and stored: no credentials, query or fragment
    size_bytes: int | None  # None: not announced
    validator: str | None
    resumable: bool  # its bytes can be read again from any offset and proven to be of the same file
    readable_again: bool  # reopened, it starts at its beginning, unlike a pipe
    head: bytes  # the first bytes, up to `head_bytes` of Limits
    head_is_whole: bool  # the head is the whole file
    digest: str | None  # see `digest_of`; None: a pipe has no identity


class RawSource(Protocol):
    """One file, stream or URL. Call `probe` once, first; `close` from any thread, at any time."""

    @property
    def parallelism(self) -> Parallelism:
        """How many threads may be in `read_at` at once. SEQUENTIAL: offsets only go forward, or more would not help."""
        ...

    @property
    def length_verified(self) -> bool:
        """Whether the file's end is announced or marked, rather than being where the bytes stop.

        False at the probe stays false; true may become false until the end is reached.
        """
        ...

    def probe(self) -> RawInfo:
        """Read the first bytes. Raises LoaderError."""
        ...

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill `view` with the bytes from `offset` on; return how many: fewer only at the end. Raises LoaderError."""
        ...

    def close(self) -> None:
        """Abort pending reads. Never blocks."""
        ...
