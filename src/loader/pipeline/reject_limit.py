"""The limit on rejected rows, counted over all workers: the first reject beyond it ends the import."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from fractions import Fraction

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import DEFAULT_LIMITS, Limits
from loader.rejects import Reason, Reject
from loader.schema import LAYOUT_COLUMN_COUNTS

# The shortest row has empty fields: its bytes are commas and a line end. A reject may be shorter, such as an empty line.
_MIN_ROW_BYTES = LAYOUT_COLUMN_COUNTS[0]
_TOO_MANY_HINT = (
    "Check whether this is the right file; increase --max-rejects if so many bad rows are expected."
)
# The faults of a record that is truncated before its last field, each with its article.
_TRUNCATION_FAULTS: dict[Reason | None, str] = {Reason.FIELD_COUNT: "the", Reason.QUOTE: "an"}
# What to do about a fault, beside what applies to all.
_REMEDIES: dict[Reason | None, str] = {
    Reason.ENCODING: "Convert the file to UTF-8, such as with `iconv -f WINDOWS-1252 -t UTF-8`. Or correct it",
    Reason.QUOTED_EMPTY: "Write null as an empty field without quotes",
}


class Allowance(msgspec.Struct, frozen=True):
    """The value of --max-rejects: a count, or a share of all rows."""

    count: int | None
    share: Fraction | None

    def permits(self, rejects: int, rows: int) -> bool:
        """Whether so many rejects among so many rows (rejects included) are allowed."""
        if self.count is not None:
            return rejects <= self.count
        return self.share is not None and rejects <= self.share * rows

    def __str__(self) -> str:
        return str(self.count) if self.share is None else f"{float(self.share * 100):g}%"


def parse_allowance(text: str) -> Allowance:
    """Parse `N` or `P%`; raises USAGE."""
    try:
        if text.endswith("%"):
            share = Fraction(text[:-1]) / 100
            if 0 <= share <= 1:
                return Allowance(None, share)
        elif (count := int(text)) >= 0:
            return Allowance(count, None)
    except (ValueError, ZeroDivisionError):
        pass
    raise LoaderError(
        FailureCode.USAGE,
        f"--max-rejects {text!r} is neither a count nor a percentage.",
        "Write a count such as 5, or a percentage such as 0.5%.",
    )


def refuse_too_many(allowance: Allowance, rejects: int, rows: int, first: Reject | None) -> None:
    """Raise TOO_MANY_REJECTS when a file of so many rows, rejects included, has too many. `first`: its first reject."""
    if first is not None and not allowance.permits(rejects, rows):
        message = (
            f"{rejects:,} of {rows:,} rows were rejected, {allowance} allowed; the first: {_shown(first)}."
        )
        raise _failure(FailureCode.TOO_MANY_REJECTS, message, _TOO_MANY_HINT, first)


class RejectCount:
    """The rejects of one attempt, those of committed parts included."""

    def __init__(
        self,
        allowance: Allowance,
        rejects: int,
        data_bytes: int | None,
        records: int = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """`rejects` and `records`: of earlier attempts; `data_bytes`: size of the file; None: not known."""
        self._allowance = allowance
        self._excess_bytes = limits.excess_reject_bytes
        self._data_bytes = data_bytes
        self._lock = threading.Lock()
        self._records = records
        self._new_rejects = self._new_bytes = 0  # since then
        self.rejects = rejects

    def read(self, records: int) -> None:
        """Count the records of a block, before any of its rejects."""
        with self._lock:
            self._records += records

    def add(self, rejects: Iterable[Reject], end: int) -> None:
        """Count rejects of a block, which ends at the byte offset `end`.

        Raises BAD_ROW or TOO_MANY_REJECTS as soon as the limit is exceeded, however many rows follow, and SOURCE_TRUNCATED
        for a truncated last record, whatever the limit: more of the file may be missing.
        """
        for reject in rejects:
            if reject.kind in _TRUNCATION_FAULTS and reject.byte_offset + len(reject.original) == end:
                raise _truncated(reject, _TRUNCATION_FAULTS[reject.kind])
            with self._lock:
                self.rejects += 1
                self._new_rejects += 1
                self._new_bytes += len(reject.original)
                count, is_within_excess = self.rejects, self._is_within_excess()
            if not is_within_excess:
                raise self._refusal(count, reject)
            if self._allowance.count is None and self._data_bytes is None:
                continue
            # All bytes but one for each reject may be rows, the last one without a line end.
            max_rows = count + ((self._data_bytes or 0) - count + 1) // _MIN_ROW_BYTES
            if not self._allowance.permits(count, max_rows):
                raise self._refusal(count, reject)

    def _is_within_excess(self) -> bool:
        """Whether the rejects beyond the share of the rows read so far have at most `excess_reject_bytes`, on average."""
        if self._allowance.share is None or self._new_bytes <= self._excess_bytes:
            return True
        excess = self.rejects - self._allowance.share * self._records
        return excess * self._new_bytes <= self._excess_bytes * self._new_rejects

    def _refusal(self, count: int, reject: Reject) -> LoaderError:
        if self._allowance.count == 0:
            message = f"A row can't be stored: {_shown(reject)}."
            remedy = _REMEDIES.get(reject.kind, "Correct the file")
            hint = f"{remedy}, or allow rejects with --max-rejects N or P%."
            return _failure(FailureCode.BAD_ROW, message, hint, reject)
        read = "" if self._allowance.share is None else f" of {self._records:,} read so far"
        message = f"{count:,} rows{read} rejected, {self._allowance} allowed; the last: {_shown(reject)}."
        return _failure(FailureCode.TOO_MANY_REJECTS, message, _TOO_MANY_HINT, reject)


def _shown(reject: Reject) -> str:
    where = f"line {reject.line:,}, byte {reject.byte_offset:,}"
    if reject.column is not None:
        where += f", column {reject.column}"
    return f"{reject.reason} ({where})"


def _failure(code: FailureCode, message: str, hint: str, reject: Reject) -> LoaderError:
    return LoaderError(
        code,
        message,
        hint,
        line=reject.line,
        byte_offset=reject.byte_offset,
        column=reject.column,
        value=reject.value,
    )


def _truncated(reject: Reject, article: str) -> LoaderError:
    message = (
        f"The file seems truncated: its last record has no line end, and has {article} {reject.reason}"
        f" (line {reject.line:,}, byte {reject.byte_offset:,})."
    )
    hint = "Get the complete file; if it is meant to end there, remove its last line."
    return _failure(FailureCode.SOURCE_TRUNCATED, message, hint, reject)
