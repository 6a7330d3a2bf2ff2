"""LoaderError: the one exception for expected failures, with a code, a message and a hint for people."""

from __future__ import annotations

import contextlib
import sys
import traceback

from loader.contract import FAILURE_KINDS, ExitCode, Failure, FailureCode

# Longer values are cut: an error must be readable, and a row may be megabytes long.
VALUE_CHARACTERS = 200


def value_text(value: bytes) -> str:
    """Return bytes as text for logs and Postgres: undecodable bytes and NUL as \\xNN, cut after VALUE_CHARACTERS."""
    # No character has more than four bytes.
    text = value[: 4 * (VALUE_CHARACTERS + 1)].decode(errors="backslashreplace").replace("\0", r"\x00")
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS else text[:VALUE_CHARACTERS] + "…"


class LoaderError(Exception):
    """A command that ends without its result: what happened, where, what to do next."""

    def __init__(
        self,
        code: FailureCode,
        message: str,
        hint: str,
        *,
        line: int | None = None,
        byte_offset: int | None = None,
        column: str | None = None,
        value: str | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = Failure(
            code=code,
            message=message,
            hint=hint,
            retryable=FAILURE_KINDS[code].retryable,
            line=line,
            byte_offset=byte_offset,
            column=column,
            value=None if value is None else _cut(value),
        )

    @property
    def code(self) -> FailureCode:
        """Its failure code."""
        return self.failure.code

    @property
    def exit_code(self) -> ExitCode:
        """The process's exit code when this error ends it."""
        return FAILURE_KINDS[self.code].exit_code


def as_loader_error(error: BaseException) -> LoaderError:
    """Return an exception as a LoaderError; an unexpected one is INTERNAL_ERROR, and its traceback goes to stderr."""
    if isinstance(error, LoaderError):
        return error
    with contextlib.suppress(OSError):  # stderr may be closed or on a full disk
        traceback.print_exception(error, file=sys.stderr)
    return LoaderError(
        FailureCode.INTERNAL_ERROR,
        f"The loader has a defect: {type(error).__name__}: {error}",
        "Report it with the traceback on stderr.",
    )
