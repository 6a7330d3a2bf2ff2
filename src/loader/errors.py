"""The one exception the loader raises on purpose: a failure that can be shown to a person and has an exit code."""

from __future__ import annotations

import sys
import traceback

from loader.wire import FAILURE_KINDS, ExitCode, Failure, FailureCode

# Longer values are cut: an error must be readable, and a row may be megabytes long.
VALUE_CHARACTERS = 200


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
        if value is not None and len(value) > VALUE_CHARACTERS:
            value = value[:VALUE_CHARACTERS] + "…"
        self.failure = Failure(
            code=code,
            message=message,
            hint=hint,
            retryable=FAILURE_KINDS[code].retryable,
            line=line,
            byte_offset=byte_offset,
            column=column,
            value=value,
        )

    @property
    def code(self) -> FailureCode:
        """Its place in the vocabulary of failures."""
        return self.failure.code

    @property
    def exit_code(self) -> ExitCode:
        """What the process exits with when this ends it."""
        return FAILURE_KINDS[self.code].exit_code


def known(error: Exception) -> LoaderError:
    """Return an exception as one that can be shown; what nobody expected is a defect, its traceback goes to stderr."""
    if isinstance(error, LoaderError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    return LoaderError(
        FailureCode.INTERNAL_ERROR,
        f"The loader has a defect: {type(error).__name__}: {error}",
        "Please report it with what stands on stderr.",
    )
