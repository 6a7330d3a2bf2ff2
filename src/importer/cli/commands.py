"""The client commands: what they print, for people or as JSON, and their exit codes."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from uuid import UUID

from importer.api.schemas import Import, Receipt
from importer.cli import formatting
from importer.cli.client import Client
from importer.model import State
from loader.cli.program import progress_display
from loader.cli.progress_bar import print_table
from loader.contract import FAILURE_KINDS, ExitCode
from loader.text import json_line, printable, printable_chunks, printable_json


class Commands:
    """The commands, run by one client."""

    def __init__(self, client: Client, *, as_json: bool) -> None:
        """`as_json`: print each import as a line of the API's JSON."""
        self._client = client
        self._as_json = as_json

    def submit(
        self, new_import: Mapping[str, object], idempotency_key: str | None, *, watch: bool
    ) -> ExitCode:
        """Submit an import; `watch`: until it has ended."""
        submitted = self._client.submit(new_import, idempotency_key)
        if watch:
            return self.watch(submitted.id)
        self._print(submitted)
        return ExitCode.PUBLISHED

    def status(self, import_id: UUID) -> ExitCode:
        """Print the state and progress of an import."""
        found = self._client.get(import_id)
        if self._as_json:
            _print_json(found)
        else:
            sys.stdout.write(formatting.status_text(found) + "\n")
        return ExitCode.PUBLISHED

    def watch(self, import_id: UUID) -> ExitCode:
        """Show an import until it has ended; exit as its loader does."""
        found = self._client.get(import_id)
        changes = self._client.watch(import_id)
        if not self._as_json:
            return _exit_code(_draw(found, changes))
        for found in changes:
            _print_json(found)
        return _exit_code(found)

    def list(self, states: Collection[State], label: str | None) -> ExitCode:
        """Print the imports of these states and with this label, newest first; none: all."""
        found = self._client.all(states, label)
        if not self._as_json:
            print_table(formatting.table(found))
            return ExitCode.PUBLISHED
        for each in found:
            _print_json(each)
        return ExitCode.PUBLISHED

    def cancel(self, import_id: UUID, *, wait: bool) -> ExitCode:
        """Cancel an import; `wait`: until its rows are removed, or it is published because the cancel came too late."""
        cancelled = self._client.cancel(import_id)
        if wait:
            *_, cancelled = self._client.watch(import_id)
        self._print(cancelled)
        return ExitCode.USAGE if cancelled.state is State.SUCCEEDED else ExitCode.PUBLISHED

    def retry(self, import_id: UUID, changes: Mapping[str, object]) -> ExitCode:
        """Retry an import; `changes`: fields of RetryImport, None: no change."""
        sent = {name: value for name, value in changes.items() if value is not None}
        self._print(self._client.retry(import_id, sent))
        return ExitCode.PUBLISHED

    def remove(self, import_id: UUID, *, is_confirmed: bool) -> ExitCode:
        """Remove an import. Asks before it drops rows of trips, unless `is_confirmed`."""
        if not is_confirmed:
            found = self._client.get(import_id)
            if found.receipt is not None and not _confirm(found, found.receipt):
                return ExitCode.USAGE
            is_confirmed = found.receipt is not None
        self._print(self._client.remove(import_id, drops_rows=is_confirmed))
        return ExitCode.PUBLISHED

    def rejects(self, import_id: UUID) -> ExitCode:
        """Write the rejected rows: a CSV file like the imported one, or JSON with the reasons."""
        chunks = self._client.rejects(import_id, as_csv=not self._as_json)
        if sys.stdout.isatty():
            chunks = printable_chunks(chunks, printable_json if self._as_json else printable)
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        return ExitCode.PUBLISHED

    def _print(self, found: Import) -> None:
        if self._as_json:
            _print_json(found)
        else:
            sys.stdout.write(f"{formatting.title(found)}: {found.state}\n")


def _confirm(found: Import, receipt: Receipt) -> bool:
    """Ask at the terminal whether to drop the rows of an import; say what was not done."""
    question = f"{formatting.title(found)} of {found.url} has {receipt.rows_published:,} rows in trips."
    if not sys.stdin.isatty():
        sys.stderr.write(f"has_rows: {question}\n  next: To remove them, run the command again with --yes.\n")
        return False
    sys.stderr.write(f"{question} Remove them? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    sys.stderr.write("Nothing is removed.\n")
    return False


def _print_json(found: Import) -> None:
    sys.stdout.buffer.write(json_line(found))
    sys.stdout.buffer.flush()


def _draw(found: Import, changes: Iterator[Import]) -> Import:
    """Show the progress of an import, print its result, and return it as it ended."""
    display = progress_display()
    display.note(f"{formatting.title(found)}: {found.url}")
    error = None
    try:
        for found in changes:
            if found.error != error and (reason := formatting.waiting_text(found)) is not None:
                display.note(reason)
            error = found.error or error
            display.draw(formatting.activity_text(found), formatting.contract_progress(found))
    except KeyboardInterrupt:
        display.note(f"The import continues; `importer cancel {found.id}` cancels it.")
        raise
    finally:
        display.stop()
    if found.receipt is not None:
        sys.stdout.write(formatting.receipt_text(found, found.receipt) + "\n")
    else:
        sys.stderr.write(formatting.end_text(found) + "\n")
    return found


def _exit_code(ended: Import) -> ExitCode:
    """Return the exit code of the import's loader."""
    if ended.state is State.SUCCEEDED:
        return ExitCode.PUBLISHED
    if ended.state is State.FAILED and ended.error is not None:
        return FAILURE_KINDS[formatting.contract_failure(ended.error).code].exit_code
    return ExitCode.TERMINATED
