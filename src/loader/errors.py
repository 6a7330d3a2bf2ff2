"""The one exception the loader raises on purpose: a failure that can be shown to a person and has an exit code."""

from __future__ import annotations

import contextlib
import sys
import traceback

from loader.contract import FAILURE_KINDS, ExitCode, Failure, FailureCode
from loader.text import cut_text


class LoaderError(Exception):
    """An import, or another command, that ends without its result: what happened, where, what to do next."""

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
            value=None if value is None else cut_text(value),
        )

    @property
    def code(self) -> FailureCode:
        """The failure code."""
        return self.failure.code

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a process that fails with this."""
        return FAILURE_KINDS[self.code].exit_code


def as_loader_error(error: BaseException) -> LoaderError:
    """Return an exception as a LoaderError. An unexpected one becomes INTERNAL_ERROR; its traceback is printed to stderr."""
    if isinstance(error, LoaderError):
        return error
    with contextlib.suppress(OSError):  # stderr may be full or closed; the failure has the message
        traceback.print_exception(error, file=sys.stderr)
    return LoaderError(
        FailureCode.INTERNAL_ERROR,
        f"The loader has a defect: {type(error).__name__}: {error}",
        "Please report it with the traceback on stderr.",
    )
