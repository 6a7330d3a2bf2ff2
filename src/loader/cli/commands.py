"""The commands other than `run`: check a source, list and clean the ledger, write a sample, run Postgres."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from uuid import UUID

import msgspec
from rich.table import Table

from loader.cancellation import Interrupt, Stopped, StopReason
from loader.cli.formatting import failure_text, size_text
from loader.cli.preview import preview_text
from loader.cli.progress_bar import print_table
from loader.contract import Failed, FailureCode
from loader.embedded.database_text import database_text, embedded_text
from loader.embedded.server import default_data_folder, embedded_server
from loader.errors import LoaderError
from loader.limits import DEFAULT_LIMITS, Limits
from loader.pipeline.signals import SIGNALS, ignored
from loader.postgres import import_lock, import_tables, ledger, remove, target_table
from loader.postgres.connection import Connection, Database
from loader.postgres.database_url import place_of
from loader.postgres.errors import translated
from loader.postgres.import_tables import Place
from loader.postgres.lock_retry import retry_while_locked
from loader.rejects import Reject
from loader.text import json_line, printable, printable_chunks


def check(source: str, limits: Limits, *, ignore_etag: bool) -> None:
    """Print size, validator, estimated rows, columns and first rows of a source, and the database of a run."""
    sys.stdout.write(preview_text(source, _database_text(), limits, ignore_etag=ignore_etag) + "\n")


def _database_text() -> str:
    """Return which database a run without options would use."""
    if not (url := os.environ.get("DATABASE_URL", "").strip()):
        return embedded_text(default_data_folder())
    return database_text(*place_of(url))


def sample(out: str, rows: int, seed: int) -> None:
    """Write `rows` trips to a path, or to stdout."""
    from loader.cli.sample import write_sample  # takes time to import: numpy, and tables

    if out == "-":
        write_sample(sys.stdout.buffer, rows, seed)
        return
    with Path(out).open("wb") as file:
        write_sample(file, rows, seed)


def postgres(data_folder: Path) -> None:
    """Run the embedded server and print its URL, until SIGINT, SIGTERM or SIGHUP."""
    signals = {*SIGNALS}.difference(ignored(signal.SIGINT, signal.SIGHUP))
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with embedded_server(data_folder) as url:
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        signal.sigwait(signals)


def imports(database_url: str, *, as_json: bool) -> None:
    """List the imports, oldest first. The state of a published import that SQL took out of trips is `detached`."""
    with Database(database_url).connection("imports") as connection:
        found = ledger.select_imports(connection) if target_table.exists(connection) else []
        rows = [
            (
                each,
                ledger.totals(connection, each.import_key),
                import_tables.import_place(connection, each.import_key),
            )
            for each in found
        ]
    if as_json:
        for each, totals, place in rows:
            entry = {
                **msgspec.structs.asdict(each),
                "state": _shown_state(each, place),
                "receipt": None if each.receipt is None else msgspec.Raw(each.receipt.encode()),
                "rows": totals.rows_copied,
                "table": None if place is None else str(place),
            }
            sys.stdout.buffer.write(json_line(entry))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("ID", "STATE", "CREATED", "ROWS", "REJECTS", "SIZE"):
        table.add_column(title, no_wrap=True)
    table.add_column("SOURCE", overflow="fold")
    for each, totals, place in rows:
        table.add_row(
            str(each.id),
            _shown_state(each, place),
            f"{each.created_at.astimezone():%Y-%m-%d %H:%M}",
            f"{totals.rows_copied:,}",
            f"{totals.rows_rejected:,}",
            "?" if each.source_bytes is None else size_text(each.source_bytes),
            each.location,
        )
    print_table(table)


def _shown_state(found: ledger.Import, place: Place | None) -> str:
    is_detached = found.state == "published" and (place is None or not place.is_in_trips)
    return "detached" if is_detached else found.state


def rejects(database_url: str, import_id: UUID, *, as_json: bool) -> None:
    """Write an import's rejects in file order: the original lines, or JSON with line, column, value and reason."""
    with Database(database_url).connection("rejects") as connection:
        found = _get(connection, import_id)
        lines = _reject_lines(ledger.rejects(connection, found.import_key), as_json=as_json)
        for line in printable_chunks(lines, printable) if sys.stdout.isatty() else lines:
            sys.stdout.buffer.write(line)


def _reject_lines(rejects: Iterator[Reject], *, as_json: bool) -> Iterator[bytes]:
    for reject in rejects:
        if as_json:
            shown = msgspec.structs.asdict(reject) | {
                "original": reject.original.decode(errors="backslashreplace")
            }
            del shown["kind"]  # the ledger does not have it
            yield json_line(shown)
        else:
            yield reject.original + b"\n"


def drop(database_url: str, import_id: UUID, limits: Limits = DEFAULT_LIMITS, *, published: bool) -> None:
    """Remove an import in any state; a published one only if `published` says so."""
    with _interruptible() as interrupt, Database(database_url).connection("drop") as connection:
        found = _get(connection, import_id)
        import_lock.lock(connection, found, interrupt, limits.import_lock_seconds)
        marked: list[bool] = []

        def mark() -> None:
            marked.append(remove.mark(connection, found.import_key, published=published))

        retry_while_locked(connection, mark, interrupt, limits.trips_lock_seconds)
        if not marked[-1]:
            _get(connection, import_id)  # raises if another process has removed it meanwhile
            raise LoaderError(
                FailureCode.USAGE,
                f"Import {import_id} is published: its rows are in trips.",
                "Use --published to take them out.",
            )
        _remove(connection, found, interrupt, limits)
    sys.stdout.write(f"removed import {import_id}\n")


def collect(database_url: str, limits: Limits = DEFAULT_LIMITS, *, dry_run: bool) -> None:
    """Remove, or only list, the staging that no loader holds.

    An import that can't be removed does not prevent the removal of others. LoaderError for them is raised at the end.
    """
    failures: list[LoaderError] = []
    with _interruptible() as interrupt, Database(database_url).connection("gc") as connection:
        if not target_table.exists(connection):
            return
        for found in remove.orphaned(connection, "loading", "removing"):
            totals = ledger.totals(connection, found.import_key)
            what = (
                f"import {found.id}: {totals.parts:,} parts, {totals.rows_copied:,} rows of {found.location}"
            )
            try:
                if not dry_run:
                    _collect(connection, found, interrupt, limits)
            except LoaderError as error:
                if connection.closed:
                    raise
                failures.append(error)
                failed = Failed(error.failure, "kept", str(found.id))
                sys.stderr.write(f"not removed {what}\n{failure_text(failed)}\n")
            else:
                sys.stdout.write(f"{'would remove' if dry_run else 'removed'} {what}\n")
    if failures:
        raise LoaderError(
            failures[0].code,
            f"{len(failures):,} imports could not be removed; the first: {failures[0]}",
            failures[0].failure.hint,
        )


def _collect(connection: Connection, found: ledger.Import, interrupt: Interrupt, limits: Limits) -> None:
    with translated():
        if remove.mark(connection, found.import_key, published=False):
            _remove(connection, found, interrupt, limits)


def _remove(connection: Connection, found: ledger.Import, interrupt: Interrupt, limits: Limits) -> None:
    seconds = limits.trips_lock_seconds
    remove.remove(connection, found.import_key, interrupt, lambda _part, _parts: None, seconds)


@contextmanager
def _interruptible() -> Generator[Interrupt]:
    """Have Ctrl-C stop the yielded interrupt, too: psycopg drops a KeyboardInterrupt if its statement fails then."""
    interrupt = Interrupt()

    def stop(_number: int, _frame: FrameType | None) -> None:
        interrupt.request(StopReason.INTERRUPTED)
        raise KeyboardInterrupt

    former = signal.getsignal(signal.SIGINT)
    if not ignored(signal.SIGINT):
        signal.signal(signal.SIGINT, stop)
    try:
        yield interrupt
    except Stopped:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, former)


def _get(connection: Connection, import_id: UUID) -> ledger.Import:
    if not target_table.exists(connection):
        raise ledger.not_found(import_id)
    return ledger.get_import(connection, import_id)
