"""Messages, receipts, failures, sizes and durations as text."""

from __future__ import annotations

from loader import contract
from loader.contract import Failed, Probed, Receipt
from loader.text import printable, printable_lines


def percent_text(progress: contract.Progress | None) -> str:
    """Return the percentage; nothing if it is not known."""
    return "" if progress is None or progress.percent is None else f"{progress.percent:.1f}%"


def numbers_text(progress: contract.Progress) -> str:
    """Return bytes, ETA, rows and rates on one line, the most important ones first."""
    pieces = [size_text(progress.bytes_done)]
    if progress.bytes_total is not None:
        pieces[0] += f" of {size_text(progress.bytes_total)}"
    if progress.eta_seconds is not None:
        pieces.append(f"{duration_text(progress.eta_seconds)} left")
    pieces.append(f"{progress.rows_loaded:,} rows")
    if progress.rows_rejected:
        pieces.append(f"{progress.rows_rejected:,} rejected")
    if progress.bytes_per_second is not None and progress.rows_per_second is not None:
        pieces += [f"{size_text(progress.bytes_per_second)}/s", f"{progress.rows_per_second:,.0f} rows/s"]
    return " · ".join(pieces)


def probed_text(message: Probed) -> str:
    """Return what the probe found, and a line for each note."""
    size = "of unknown size" if message.bytes_total is None else size_text(message.bytes_total)
    how = f", {message.compression}" if message.compression else ""
    resumed = f", resumed (attempt {message.attempt})" if message.resumed else ""
    what = f"{message.source} ({size}{how}), database {message.database}"
    lines = [f"import {message.import_id}: {what}{resumed}"]
    return "\n".join(map(printable, lines + [f"  note: {note}" for note in message.notes]))


def receipt_text(receipt: Receipt, source_title: str = "source") -> str:
    """Return a receipt as a short table."""
    rate = receipt.source_bytes / receipt.seconds if receipt.seconds else 0
    verified = "" if receipt.length_verified else " (length unverified)"
    rows = [
        ("published", f"import {receipt.import_id} (import_key {receipt.import_key})"),
        (source_title, receipt.source),
        *(() if receipt.database is None else (("database", receipt.database),)),
        ("validator", receipt.validator or "none"),
        (
            "bytes",
            f"{receipt.source_bytes:,}{verified}, in {_counted(receipt.blocks, 'block')} and"
            f" {_counted(receipt.parts, 'part')}",
        ),
        (
            "rows",
            f"{receipt.rows_parsed:,} parsed - {receipt.rows_rejected:,} rejected = {receipt.rows_copied:,} copied"
            f" = {receipt.rows_published:,} published",
        ),
        ("time", f"{duration_text(receipt.seconds)} ({size_text(rate)}/s), attempt {receipt.attempts}"),
        *(("note", note) for note in receipt.notes),
    ]
    return "\n".join(f"{name:<10} {printable(text)}" for name, text in rows)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def failure_text(message: Failed) -> str:
    """Return a failure as lines: what happened, the value, what to do next, what is left of the import."""
    failure = message.failure
    lines = [printable_lines(f"{failure.code}: {failure.message}")]
    if failure.value is not None:
        lines.append(f"  value: {failure.value!r}")
    lines.append(printable_lines(f"  next: {failure.hint}"))
    if message.staging != "none":
        lines.append(f"  staging: {message.staging} (import {message.import_id})")
    return "\n".join(lines)


def size_text(size_bytes: float) -> str:
    """Return a size in decimal units: 2.9 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units: 12.3 s, 4 min 5 s, 2 h 3 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
