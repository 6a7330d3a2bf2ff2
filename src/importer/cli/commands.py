"""The commands that ask the service: what they print, for people or as JSON, and what they exit with."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from uuid import UUID

from importer.api.schemas import Import
from importer.cli import formatting
from importer.cli.client import Client
from importer.model import State
from loader.cli.formatting import receipt_text
from loader.cli.progress_bar import BarDisplay, print_table
from loader.contract import FAILURE_KINDS, ExitCode
from loader.text import json_line, printable, printable_chunks, printable_json


class Commands:
    """The commands of one client."""

    def __init__(self, client: Client, *, as_json: bool) -> None:
        """`as_json`: print each import as one line of the API's JSON."""
        self._client = client
        self._as_json = as_json

    def submit(
        self, new_import: Mapping[str, object], idempotency_key: str | None, *, watch: bool
    ) -> ExitCode:
        """Submit an import, and watch it to its end if that is asked for."""
        submitted = self._client.submit(new_import, idempotency_key)
        if watch:
            return self.watch(submitted.id)
        self._print(submitted)
        return ExitCode.PUBLISHED

    def status(self, import_id: UUID) -> ExitCode:
        """Print where an import stands."""
        found = self._client.get(import_id)
        if self._as_json:
            _print_json(found)
        else:
            sys.stdout.write(formatting.status_text(found) + "\n")
        return ExitCode.PUBLISHED

    def watch(self, import_id: UUID) -> ExitCode:
        """Show an import until it has ended; exit as its loader would have."""
        found = self._client.get(import_id)
        changes = self._client.watch(import_id)
        if not self._as_json:
            return _exit_code(_draw(found, changes))
        for found in changes:
            _print_json(found)
        return _exit_code(found)

    def list(self, state: State | None) -> ExitCode:
        """Print the imports, newest first."""
        found = self._client.all(state)
        if not self._as_json:
            print_table(formatting.table(found))
            return ExitCode.PUBLISHED
        for each in found:
            _print_json(each)
        return ExitCode.PUBLISHED

    def cancel(self, import_id: UUID, *, wait: bool) -> ExitCode:
        """Cancel an import; if that is asked for, wait until nothing of it is left, or its publish was faster."""
        cancelled = self._client.cancel(import_id)
        if wait:
            *_, cancelled = self._client.watch(import_id)
        self._print(cancelled)
        return ExitCode.USAGE if cancelled.state is State.SUCCEEDED else ExitCode.PUBLISHED

    def retry(self, import_id: UUID, url: str | None) -> ExitCode:
        """Put an import back into the queue, with another URL if there is one."""
        self._print(self._client.retry(import_id, {} if url is None else {"url": url}))
        return ExitCode.PUBLISHED

    def remove(self, import_id: UUID) -> ExitCode:
        """Take an import out of trips and out of the records."""
        self._print(self._client.remove(import_id))
        return ExitCode.PUBLISHED

    def rejects(self, import_id: UUID) -> ExitCode:
        """Write the rows that were set aside: a CSV like the imported file, or all that is known of each."""
        chunks = self._client.rejects(import_id, "application/json" if self._as_json else "text/csv")
        if sys.stdout.isatty():
            chunks = printable_chunks(chunks, printable_json if self._as_json else printable)
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        return ExitCode.PUBLISHED

    def _print(self, found: Import) -> None:
        if self._as_json:
            _print_json(found)
        else:
            sys.stdout.write(f"import {found.id}: {found.state}\n")


def _print_json(found: Import) -> None:
    sys.stdout.buffer.write(json_line(found))
    sys.stdout.buffer.flush()


def _draw(found: Import, changes: Iterator[Import]) -> Import:
    """Draw the changes of an import as a bar, then how it ended; return it as it is then."""
    bar = BarDisplay()
    bar.note(f"import {found.id}: {found.url}")
    error = None
    try:
        for found in changes:
            if found.error != error and (trouble := formatting.trouble_text(found)) is not None:
                bar.note(trouble)
            error = found.error or error
            bar.draw(formatting.doing_text(found), formatting.wire_progress(found))
    except KeyboardInterrupt:
        bar.note(f"The import goes on; `importer cancel {found.id}` ends it.")
        raise
    finally:
        bar.stop()
    if found.receipt is not None:
        sys.stdout.write(receipt_text(formatting.wire_receipt(found, found.receipt)) + "\n")
    else:
        sys.stderr.write(formatting.end_text(found) + "\n")
    return found


def _exit_code(ended: Import) -> ExitCode:
    """Return what the import's loader would have exited with."""
    if ended.state is State.SUCCEEDED:
        return ExitCode.PUBLISHED
    if ended.state is State.FAILED and ended.error is not None:
        return FAILURE_KINDS[formatting.wire_failure(ended.error).code].exit_code
    return ExitCode.TERMINATED
