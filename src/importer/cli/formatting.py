"""Imports as text for people, with the loader's terms and units."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from rich.table import Table
from rich.text import Text

from importer.api.schemas import Failure, Import, Receipt
from importer.model import FINISHED, State
from loader import contract
from loader.cli import formatting as loader_formatting
from loader.cli.formatting import failure_text, numbers_text
from loader.contract import Failed, FailureCode
from loader.text import printable


def title(found: Import) -> str:
    """Return the id of an import, and its label if it has one."""
    return f"import {found.id}" if found.label is None else f"import {found.id} ({printable(found.label)})"


def status_text(found: Import) -> str:
    """Return the state and progress of an import as a short table, with its receipt or error."""
    rows = [
        ("import", str(found.id)),
        *([] if found.label is None else [("label", printable(found.label))]),
        ("url", found.url),
        ("state", found.state if found.attempts < 2 else f"{found.state}, attempt {found.attempts}"),
        ("created", _time_text(found.created_at)),
    ]
    if found.finished_at is not None:
        rows.append(("finished", _time_text(found.finished_at)))
    elif found.attempts:
        rows.append((activity_text(found), numbers_text(contract_progress(found))))
    lines = [f"{name:<10} {text}" for name, text in rows]
    if found.receipt is not None:
        lines.append(receipt_text(found, found.receipt))
    elif (reason := waiting_text(found)) is not None:
        lines.append(reason)
    elif found.state in (State.FAILED, State.CANCELLED):
        lines.append(end_text(found))
    return "\n".join(lines)


def table(imports: Iterable[Import]) -> Table:
    """Return imports as a table with a line for each."""
    shown = Table(box=None, pad_edge=False)
    for heading in ("ID", "STATE", "CREATED", "ROWS", "REJECTS", "PERCENT"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("LABEL", "URL"):
        shown.add_column(heading, overflow="fold")
    for each in imports:
        progress = each.progress
        shown.add_row(
            str(each.id),
            each.state,
            _time_text(each.created_at),
            f"{progress.rows_loaded:,}",
            f"{progress.rows_rejected:,}",
            "?" if progress.percent is None else f"{progress.percent:.1f}",
            Text(printable(each.label or "")),
            each.url,
        )
    return shown


def activity_text(found: Import) -> str:
    """Return the phase of a running import, or the state of another, in a word or two."""
    match found.state:
        case State.RUNNING:
            return (found.phase or "starting").replace("_", " ")
        case State.CANCELLING if found.phase == "rolling_back":
            return "rolling back"
        case _:
            return found.state


def waiting_text(found: Import) -> str | None:
    """Return why an unfinished import waits for its next attempt, the database or its cleanup; None: it does not wait."""
    if found.error is None or found.state in FINISHED:
        return None
    if found.state is not State.QUEUED:
        return failure_text(Failed(contract_failure(found.error), "none"))
    text = printable(f"attempt {found.attempts} failed: {found.error.code}: {found.error.message}")
    if found.next_attempt_at is None:
        return text
    return f"{text}\n  next: attempt {found.attempts + 1} at {_time_text(found.next_attempt_at)}"


def end_text(ended: Import) -> str:
    """Return how an import without a receipt ended, and what to do next."""
    if ended.state is not State.FAILED or ended.error is None:
        return f"import {ended.id}: {ended.state}, no rows are left"
    failure = contract_failure(ended.error)
    text = failure_text(Failed(failure, "none"))
    return f"{text}\n  retry: importer retry {ended.id}" if failure.retryable else text


def contract_progress(found: Import) -> contract.Progress:
    """Return the progress of an import in the loader's form."""
    return msgspec.convert(found.progress, contract.Progress, from_attributes=True)


def receipt_text(found: Import, receipt: Receipt) -> str:
    """Return the receipt of an import as a short table."""
    fields: dict[str, object] = {
        **msgspec.to_builtins(receipt),
        "import_id": str(found.id),
        "source": receipt.url,
    }
    return loader_formatting.receipt_text(msgspec.convert(fields, contract.Receipt), source_title="url")


def contract_failure(failure: Failure) -> contract.Failure:
    """Return a failure in the loader's form; an unknown code, of a newer version, becomes internal_error."""
    known = failure.code if failure.code in set(FailureCode) else FailureCode.INTERNAL_ERROR
    return msgspec.convert(msgspec.structs.asdict(failure) | {"code": known}, contract.Failure)


def _time_text(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
