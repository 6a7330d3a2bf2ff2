"""The whole life of imports by a client that openapi-python-client has generated. Prints the number of published rows.

Arguments: the service's URL, the URL of a valid file, the URL of a file with a bad row.
"""

from __future__ import annotations

import json
import sys
from typing import TypeVar
from uuid import UUID

from client import Client
from client.api.imports import (
    cancel_import,
    get_import,
    list_attempts,
    list_imports,
    list_rejects,
    remove_import,
    retry_import,
    submit_import,
)
from client.api.service import get_readiness
from client.models import (
    AttemptPage,
    Failure,
    Health,
    Import,
    ImportPage,
    NewImport,
    Problem,
    Receipt,
    RemoveImportRows,
    State,
)
from client.types import UNSET
from httpx import Timeout

T = TypeVar("T")

service, source, bad_source = sys.argv[1:]
client = Client(base_url=service, raise_on_unexpected_status=True, timeout=Timeout(60))


def of_type(expected: type[T], value: object) -> T:
    assert isinstance(value, expected), value
    return value


def submit(url: str) -> Import:
    submitted = of_type(Import, submit_import.sync(client=client, body=NewImport(url)))
    assert submitted.state is State.QUEUED
    return submitted


def until_ended(found: Import) -> Import:
    while found.state not in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        changed = get_import.sync(found.id, client=client, wait=30, after=found.version)
        found = of_type(Import, changed)
    return found


def events(import_id: UUID) -> list[Import]:
    """Return the events of an import until it has ended."""
    with client.get_httpx_client().stream("GET", f"/imports/{import_id}/events") as stream:
        data = [line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: ")]
    return [Import.from_dict(json.loads(each)) for each in data]


assert of_type(Health, get_readiness.sync(client=client)).status.value == "ready"
refused = of_type(Problem, submit_import.sync(client=client, body=NewImport("ftp://localhost/trips.csv")))
assert refused.code == "invalid_url", refused

submitted = submit(source)
assert events(submitted.id)[-1].state is State.SUCCEEDED
succeeded = until_ended(submitted)
receipt = of_type(Receipt, succeeded.receipt)
assert receipt.rows_published == succeeded.progress.rows_loaded > 0
assert receipt.published_at.tzinfo is not None
assert list_rejects.sync(succeeded.id, client=client) == []
too_late = of_type(Problem, cancel_import.sync(succeeded.id, client=client))
assert too_late.state is State.SUCCEEDED

failed = until_ended(submit(bad_source))
assert of_type(Failure, failed.error).code == "bad_row"
retried = of_type(Import, retry_import.sync(failed.id, client=client))
assert retried.state is State.QUEUED
assert until_ended(retried).state is State.FAILED
attempts = of_type(AttemptPage, list_attempts.sync(failed.id, client=client)).attempts
assert [each.number for each in attempts] == [1, 2]

listed: list[UUID] = []
cursor: str | None = None
while not listed or cursor is not None:
    page = of_type(ImportPage, list_imports.sync(client=client, limit=1, cursor=cursor or UNSET))
    listed += [each.id for each in page.imports]
    cursor = page.next_cursor
assert listed[:2] == [failed.id, succeeded.id]

assert of_type(Import, remove_import.sync(failed.id, client=client)).state is State.REMOVING
kept = of_type(Problem, remove_import.sync(succeeded.id, client=client))
assert kept.code == "has_rows"
dropped = of_type(Import, remove_import.sync(succeeded.id, client=client, rows=RemoveImportRows.DROP))
assert dropped.state is State.REMOVING
print(receipt.rows_published)
