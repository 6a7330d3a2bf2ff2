"""Imports as people read them, in the words and units that the loader has for them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from rich.table import Table

from importer.api.schemas import Failure, Import, Receipt
from importer.model import FINISHED, State
from loader import contract
from loader.cli.formatting import failure_text, numbers_text, receipt_text
from loader.contract import Failed, FailureCode
from loader.text import printable


def status_text(found: Import) -> str:
    """Return where an import stands as a short table, its receipt or its error included."""
    rows = [
        ("import", str(found.id)),
        ("source", found.url),
        ("state", found.state if found.attempt < 2 else f"{found.state}, attempt {found.attempt}"),
        ("created", _time_text(found.created_at)),
    ]
    if found.finished_at is not None:
        rows.append(("finished", _time_text(found.finished_at)))
    elif found.attempt:
        rows.append((doing_text(found), numbers_text(wire_progress(found))))
    lines = [f"{name:<10} {text}" for name, text in rows]
    if found.receipt is not None:
        lines.append(receipt_text(wire_receipt(found, found.receipt)))
    elif (trouble := trouble_text(found)) is not None:
        lines.append(trouble)
    elif found.state in (State.FAILED, State.CANCELLED):
        lines.append(end_text(found))
    return "\n".join(lines)


def table(imports: Iterable[Import]) -> Table:
    """Return imports as a table, a line each."""
    shown = Table(box=None, pad_edge=False)
    for title in ("ID", "STATE", "CREATED", "ROWS", "REJECTS", "PERCENT"):
        shown.add_column(title, no_wrap=True)
    shown.add_column("SOURCE", overflow="fold")
    for each in imports:
        progress = each.progress
        shown.add_row(
            str(each.id),
            each.state,
            _time_text(each.created_at),
            f"{progress.rows_loaded:,}",
            f"{progress.rows_rejected:,}",
            "?" if progress.percent is None else f"{progress.percent:.1f}",
            each.url,
        )
    return shown


def doing_text(found: Import) -> str:
    """Return what goes on, in a word or two."""
    match found.state:
        case State.RUNNING:
            return (found.phase or "starting").replace("_", " ")
        case State.CANCELLING if found.phase == "rolling_back":
            return "rolling back"
        case _:
            return found.state


def trouble_text(found: Import) -> str | None:
    """Return what an import that has not ended waits for: its next attempt, or its clean-up; None: it goes on."""
    if found.error is None or found.state in FINISHED:
        return None
    if found.state is not State.QUEUED:
        return failure_text(Failed(wire_failure(found.error), "none"))
    text = printable(f"attempt {found.attempt} failed: {found.error.code}: {found.error.message}")
    if found.next_attempt_at is None:
        return text
    return f"{text}\n  next: attempt {found.attempt + 1} at {_time_text(found.next_attempt_at)}"


def end_text(ended: Import) -> str:
    """Return how an import ended that has no receipt, and what can be done about it."""
    if ended.state is not State.FAILED or ended.error is None:
        return f"import {ended.id}: {ended.state}, nothing of it is left"
    failure = wire_failure(ended.error)
    text = failure_text(Failed(failure, "none"))
    return f"{text}\n  retry: importer retry {ended.id}" if failure.retryable else text


def wire_progress(found: Import) -> contract.Progress:
    """Return an import's progress as its loader told it."""
    return msgspec.convert(found.progress, contract.Progress, from_attributes=True)


def wire_receipt(found: Import, receipt: Receipt) -> contract.Receipt:
    """Return an import's receipt as its loader told it."""
    fields: dict[str, object] = {**msgspec.to_builtins(receipt), "import_id": str(found.id)}
    return msgspec.convert(fields, contract.Receipt)


def wire_failure(failure: Failure) -> contract.Failure:
    """Return an import's failure as its loader told it; a code of a newer version is taken for a defect."""
    known = failure.code if failure.code in set(FailureCode) else FailureCode.INTERNAL_ERROR
    return msgspec.convert(msgspec.structs.asdict(failure) | {"code": known}, contract.Failure)


def _time_text(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
