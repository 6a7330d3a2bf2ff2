"""A local file, or a stream: stdin, a pipe, any other file that is not a regular one."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import SEQUENTIAL
from loader.source.base import TAIL_BYTES, RawInfo, digest_of
from loader.source.forward_reader import ForwardReader
from loader.text import printable

STDIN = "-"


class FileSource:
    """See RawSource. Raises LoaderError if it can't be opened."""

    parallelism = SEQUENTIAL  # the kernel reads ahead, and one thread reads 3 GB/s
    length_verified = True

    def __init__(self, path: Path, location: str, head_bytes: int) -> None:
        self._location = location
        self._head_bytes = head_bytes
        self._descriptor = _opened(path, location)
        status = os.fstat(self._descriptor)
        self._size_bytes = status.st_size
        self._validator = _validator(status)

    def __del__(self) -> None:
        # not in close(): a thread may still be reading, and another file may get the number
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def probe(self) -> RawInfo:
        """Read the first and the last bytes. Raises LoaderError."""
        head = bytearray(min(self._head_bytes, self._size_bytes))
        self.read_at(0, memoryview(head))
        tail = bytearray(min(TAIL_BYTES, self._size_bytes - len(head)))
        self.read_at(self._size_bytes - len(tail), memoryview(tail))
        return RawInfo(
            location=self._location,
            size_bytes=self._size_bytes,
            validator=self._validator,
            resumable=True,
            readable_again=True,
            head=bytes(head),
            head_is_whole=len(head) == self._size_bytes,
            digest=digest_of(head, tail),
        )

    def read_at(self, offset: int, view: memoryview) -> int:
        """Read from the file. Raises LoaderError, with SOURCE_CHANGED if the file has changed since the probe."""
        wanted = min(len(view), max(0, self._size_bytes - offset))
        filled = 0
        try:
            while filled < wanted:
                count = os.preadv(self._descriptor, [view[filled:wanted]], offset + filled)
                if count == 0:
                    break
                filled += count
            is_changed = filled < wanted or _validator(os.fstat(self._descriptor)) != self._validator
        except OSError as error:
            raise _file_error(error, self._location) from error
        if is_changed:
            message = f"{self._location} has changed during the import"
            raise LoaderError(
                FailureCode.SOURCE_CHANGED, message, "Import it again when the file no longer changes."
            )
        return filled

    def close(self) -> None:
        """Do nothing: no read takes long."""


class StreamSource:
    """See RawSource. It is read once, forward, and announces no length."""

    parallelism = SEQUENTIAL
    length_verified = False

    def __init__(self, path: Path | None, location: str, head_bytes: int) -> None:
        self._path = path  # None: stdin
        self._location = location
        self._head_bytes = head_bytes
        self._descriptor = 0
        self._reader = ForwardReader(self._readinto, location)

    def __del__(self) -> None:
        if self._descriptor > 0:
            os.close(self._descriptor)

    def probe(self) -> RawInfo:
        """Wait for the first bytes and keep them. Raises LoaderError."""
        if self._path is not None:
            self._descriptor = _opened(self._path, self._location)
        head = self._reader.peek(self._head_bytes + 1)  # one more byte tells whether the head is all
        return RawInfo(
            location=self._location,
            size_bytes=None,
            validator=None,
            resumable=False,
            readable_again=False,
            head=head[: self._head_bytes],
            head_is_whole=len(head) <= self._head_bytes,
            digest=None,
        )

    def read_at(self, offset: int, view: memoryview) -> int:
        """Read the next bytes. Raises LoaderError."""
        return self._reader.read_at(offset, view)

    def close(self) -> None:
        """Do nothing: a read that waits for a pipe can't be interrupted, so its thread is left behind."""

    def _readinto(self, view: memoryview) -> int:
        try:
            return os.readv(self._descriptor, [view])
        except OSError as error:
            raise _file_error(error, self._location) from error


def open_path(path: Path, head_bytes: int) -> FileSource | StreamSource:
    """Open a path as a file or a stream. Raises LoaderError."""
    location = path_location(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        raise _file_error(error, location) from error
    if stat.S_ISDIR(mode):
        raise LoaderError(FailureCode.USAGE, f"{location} is a directory", "Specify one file.")
    kind = FileSource if stat.S_ISREG(mode) else StreamSource
    return kind(path, location, head_bytes)


def open_stdin(head_bytes: int) -> StreamSource:
    """Open stdin."""
    return StreamSource(None, STDIN, head_bytes)


def path_location(path: Path) -> str:
    """Return the absolute path on one line of valid Unicode; file names may have any bytes."""
    return printable(str(path.absolute()))


def _file_error(error: OSError | ValueError, location: str) -> LoaderError:
    """Return the failure for an error of the operating system."""
    number = error.errno if isinstance(error, OSError) else errno.ENOENT
    message = f"{location}: {os.strerror(number or errno.EIO)}"
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return LoaderError(
            FailureCode.SOURCE_NOT_FOUND,
            message,
            "Check the path. A URL starts with http:// or https://.",
        )
    if number in (errno.EACCES, errno.EPERM):
        return LoaderError(FailureCode.SOURCE_FORBIDDEN, message, "Allow this user to read it.")
    return LoaderError(
        FailureCode.SOURCE_UNREACHABLE,
        message,
        "Check the disk or the mount, then run the same command again to resume.",
    )


def _opened(path: Path, location: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _file_error(error, location) from error


def _validator(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_ino}-{status.st_size}"
