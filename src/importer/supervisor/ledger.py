"""What the service asks the ledger, and all it says to Postgres: where an import stands, and what is not published."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from typing import TypeVar
from uuid import UUID

import msgspec

from importer.supervisor.outcome import LedgerState, Staged
from loader.contract import FailureCode, Receipt
from loader.errors import LoaderError
from loader.postgres import import_tables, ledger, target_table
from loader.postgres.connection import Connection, Database

R = TypeVar("R")

# Connections of the service itself, beside those of its loaders; thousands of questions wait in line.
_CONNECTIONS = 4
# Answers take milliseconds; one that waits for a dying loader's backend takes a second or two. A database that has
# not answered by then is as good as down.
_TIMEOUT_SECONDS = 15.0


class LedgerReader:
    """Asks the ledger of one database. To be used in one event loop."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._turns = asyncio.Semaphore(_CONNECTIONS)

    async def standing(self, import_id: UUID) -> LedgerState:
        """Return where an import stands, once no transaction that changes it is under way. Raises LoaderError."""
        return await self._ask(lambda connection: _standing(connection, import_id))

    async def is_in_trips(self, import_id: UUID) -> bool:
        """Return whether an import's table is a partition of trips. Raises LoaderError."""
        return await self._ask(lambda connection: _is_in_trips(connection, import_id))

    async def unpublished(self) -> list[UUID]:
        """Return the imports of which there is staging, oldest first. Raises LoaderError."""
        return await self._ask(_unpublished)

    async def published(self, among: Collection[UUID]) -> dict[UUID, Receipt]:
        """Return the receipts of those among these imports that are published. Raises LoaderError."""
        return await self._ask(lambda connection: _published(connection, among)) if among else {}

    async def require_primary(self) -> None:
        """Return if the server can be used, and is no standby. Raises LoaderError."""
        await self._ask(target_table.refuse_standby)

    async def server_version(self) -> str:
        """Return the version of the server, which also shows that it can be used. Raises LoaderError."""
        return await self._ask(_server_version)

    async def _ask(self, question: Callable[[Connection], R]) -> R:
        database = Database(self._database_url)

        def answer() -> R:
            with database.connection("service") as connection:
                return question(connection)

        async with self._turns:
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):  # not wait_for, see reconciler.py
                    return await asyncio.to_thread(answer)
            except (TimeoutError, asyncio.CancelledError) as error:
                threading.Thread(
                    target=database.abort, name="abort", daemon=True
                ).start()  # so that the other one ends
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise LoaderError(
                    FailureCode.DATABASE_UNAVAILABLE,
                    f"The database did not answer within {_TIMEOUT_SECONDS:.0f} s.",
                    "See that the server runs; it is asked again.",
                ) from None


def _standing(connection: Connection, import_id: UUID) -> LedgerState:
    if not target_table.exists(connection):
        return "absent"
    # A loader that was killed in its publish may leave a COMMIT on its way, with the row locked: wait for its end.
    # https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS
    connection.execute("SELECT FROM loader.import WHERE id = %s FOR SHARE", [import_id])
    found = ledger.find_import(connection, import_id)
    if found is None:
        return "absent"
    if found.state == "published" and found.receipt is not None:
        return msgspec.json.decode(found.receipt, type=Receipt)
    return Staged(ledger.totals(connection, found.import_key).bytes)


def _is_in_trips(connection: Connection, import_id: UUID) -> bool:
    found = ledger.find_import(connection, import_id) if target_table.exists(connection) else None
    place = None if found is None else import_tables.import_place(connection, found.import_key)
    return place is not None and place.is_in_trips


def _server_version(connection: Connection) -> str:
    return connection.info.parameter_status("server_version") or "unknown"


def _unpublished(connection: Connection) -> list[UUID]:
    if not target_table.exists(connection):
        return []
    return [found.id for found in ledger.select_imports(connection, "state <> 'published'")]


def _published(connection: Connection, among: Collection[UUID]) -> dict[UUID, Receipt]:
    if not target_table.exists(connection):
        return {}
    found = ledger.select_imports(connection, "state = 'published' AND id = ANY(%s)", [list(among)])
    return {each.id: msgspec.json.decode(each.receipt, type=Receipt) for each in found if each.receipt}
