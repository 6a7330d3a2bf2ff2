"""The service's queries of the target database: states of imports in the ledger, and whether the server can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TypeVar
from uuid import UUID

from importer.supervisor.outcome import LedgerState, Staged
from loader.cancellation import run_in_daemon_thread
from loader.contract import FailureCode, Receipt
from loader.embedded.database_text import database_text
from loader.errors import LoaderError
from loader.postgres import import_tables, ledger, target_table
from loader.postgres.connection import Connection, Database

R = TypeVar("R")

# Connections of the service itself, beside those of its loaders; further queries wait.
_MAX_CONNECTIONS = 4
# Queries take milliseconds; one that waits for the backend of a killed loader, a second or two.
_TIMEOUT_SECONDS = 15.0


class LedgerReader:
    """Queries one database. To be used in one event loop."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def state_of(self, import_id: UUID) -> LedgerState:
        """Return the ledger's state of an import, after waiting for transactions that change it. Raises LoaderError."""
        return await self._query(lambda connection: _state_of(connection, import_id))

    async def is_in_trips(self, import_id: UUID) -> bool:
        """Return whether an import's table is a partition of trips. Raises LoaderError."""
        return await self._query(lambda connection: _is_in_trips(connection, import_id))

    async def unpublished(self) -> list[UUID]:
        """Return the imports that have staging, oldest first. Raises LoaderError."""
        return await self._query(_unpublished)

    async def published(self, among: Collection[UUID]) -> dict[UUID, Receipt]:
        """Return the receipts of those among these imports that are published. Raises LoaderError."""
        return await self._query(lambda connection: _published(connection, among)) if among else {}

    async def require_primary(self) -> None:
        """Return if the server can be used and is no standby. Raises LoaderError."""
        await self._query(target_table.refuse_standby)

    async def version_and_database(self) -> tuple[str, str]:
        """Return the server's version, and which database this is. Raises LoaderError."""
        return await self._query(_version_and_database)

    async def _query(self, query: Callable[[Connection], R]) -> R:
        database = Database(self._database_url)

        def run() -> R:
            with database.connection("service") as connection:
                return query(connection)

        async with self._slots:
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):  # not wait_for, see reconciler.py
                    return await asyncio.to_thread(run)
            except (TimeoutError, asyncio.CancelledError) as error:
                run_in_daemon_thread(database.abort)  # ends the other thread
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise LoaderError(
                    FailureCode.DATABASE_UNAVAILABLE,
                    f"The database did not respond within {_TIMEOUT_SECONDS:.0f} s.",
                    "Check that the server runs. The service will retry.",
                ) from None


def _state_of(connection: Connection, import_id: UUID) -> LedgerState:
    if not target_table.exists(connection):
        return "absent"
    # Waits for the COMMIT of a loader that was killed during its publish: that transaction has locked the row.
    # https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS
    connection.execute("SELECT FROM loader.import WHERE id = %s FOR SHARE", [import_id])
    found = ledger.find_import(connection, import_id)
    if found is None:
        return "absent"
    if found.state == "published" and (receipt := found.read_receipt()) is not None:
        return receipt
    return Staged(ledger.totals(connection, found.import_key).bytes)


def _is_in_trips(connection: Connection, import_id: UUID) -> bool:
    found = ledger.find_import(connection, import_id) if target_table.exists(connection) else None
    place = None if found is None else import_tables.import_place(connection, found.import_key)
    return place is not None and place.is_in_trips


def _version_and_database(connection: Connection) -> tuple[str, str]:
    info = connection.info
    version = info.parameter_status("server_version") or "unknown"
    return version, database_text(info.host, info.port, info.dbname)


def _unpublished(connection: Connection) -> list[UUID]:
    if not target_table.exists(connection):
        return []
    return [found.id for found in ledger.select_imports(connection, "state <> 'published'")]


def _published(connection: Connection, among: Collection[UUID]) -> dict[UUID, Receipt]:
    if not target_table.exists(connection):
        return {}
    found = ledger.select_imports(connection, "state = 'published' AND id = ANY(%s)", [list(among)])
    return {each.id: receipt for each in found if (receipt := each.read_receipt()) is not None}
