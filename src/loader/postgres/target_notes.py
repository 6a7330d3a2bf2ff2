"""Notes on the limits of imports into this database: triggers, replicas, statistics of trips, locks of readers.

None of them is a failure. The `probed` message and the receipt have the notes; docs/deployment.md has the details.
"""

from __future__ import annotations

from typing import LiteralString

import msgspec
from psycopg.rows import args_row, scalar_row

from loader.postgres.connection import Connection

# The first version with ANALYZE ONLY, which refreshes the statistics of trips as a whole.
ANALYZE_ONLY_SERVER = 180000

# Triggers and rules that run in an ordinary session: neither disabled nor for replication only.
_TRIGGERS: LiteralString = """
SELECT tgname FROM pg_trigger WHERE tgrelid = 'public.trips'::regclass AND NOT tgisinternal AND tgenabled IN ('O', 'A')
UNION SELECT rulename FROM pg_rewrite WHERE ev_class = 'public.trips'::regclass AND ev_enabled IN ('O', 'A')
ORDER BY 1
"""
_PUBLICATIONS: LiteralString = """
SELECT pubname FROM pg_publication WHERE NOT puballtables AND (
    EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = pg_publication.oid AND prrelid = 'public.trips'::regclass)
    OR EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = pg_publication.oid AND pnnspid = 'public'::regnamespace)
) ORDER BY 1
"""
# Version 19 can exclude trips, which does not help: an import's table is no partition of trips before its publish.
_PUBLICATIONS_OF_ALL: LiteralString = "SELECT pubname FROM pg_publication WHERE puballtables ORDER BY 1"

# From the catalog alone: functions such as pg_partition_tree take the locks that are counted here.
_LOCKS: LiteralString = """
WITH RECURSIVE tree (oid) AS (
    SELECT 'public.trips'::regclass::oid
    UNION ALL SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid WHERE NOT inhdetachpending
)
SELECT
    (SELECT count(*) FROM tree) + (SELECT count(*) FROM pg_index WHERE indrelid IN (SELECT oid FROM tree)),
    (SELECT count(*) FROM pg_index WHERE indrelid = 'public.trips'::regclass),
    current_setting('max_locks_per_transaction')::integer,
    current_setting('max_connections')::integer
"""


class _Locks(msgspec.Struct, frozen=True):
    needed: int  # by a query over all of trips: tables and indexes
    indexes: int  # per table
    per_transaction: int  # max_locks_per_transaction: the server's average per connection
    connections: int  # max_connections


def find_lock_note(connection: Connection, new_tables: int) -> list[str]:
    """Return a note if a query over all of trips takes more locks than the server has for each of its connections.

    `new_tables`: the number of tables that the import adds. The formula is in docs/deployment.md. Raises psycopg.Error.
    """
    with connection.cursor(row_factory=args_row(_Locks)) as cursor:
        locks = cursor.execute(_LOCKS).fetchall()[0]
    needed = locks.needed + new_tables * (1 + locks.indexes)
    if needed <= locks.per_transaction:
        return []
    queries = max(1, locks.per_transaction * locks.connections // needed)
    return [
        f"A query over all of trips locks about {needed:,} tables and indexes when this import is published. With the"
        f" server's max_locks_per_transaction = {locks.per_transaction} about {queries:,} such queries can run at once."
        f" Set it to at least {needed}, and restart the server."
    ]


def find_notes(connection: Connection) -> list[str]:
    """Return the notes on `public.trips`, which must exist, without locking it. Raises psycopg.Error."""
    notes: list[str] = []
    if triggers := _names(connection, _TRIGGERS):
        notes.append(f"Imports run none of the triggers and rules of trips: {triggers}.")
    if publications := _names(connection, _PUBLICATIONS):
        notes.append(f"Logical replication does not send imported rows of trips: publication {publications}.")
    if publications := _names(connection, _PUBLICATIONS_OF_ALL):
        notes.append(
            "Logical replication stops at the first imported row, until its subscribers have the tables of the import:"
            f" publication {publications} FOR ALL TABLES."
        )
    version = connection.info.server_version
    if version < ANALYZE_ONLY_SERVER:
        notes.append(
            f"On PostgreSQL {version // 10000} the loader refreshes the statistics of each part, but not those of trips as a"
            " whole. To refresh them, run: ANALYZE public.trips"
        )
    return notes


def _names(connection: Connection, query: LiteralString) -> str:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return ", ".join(cursor.execute(query).fetchall())
