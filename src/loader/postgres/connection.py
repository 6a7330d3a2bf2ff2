"""Connections to the target Postgres: opened with the loader's session settings, aborted together."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Generator

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus
from psycopg.rows import scalar_row

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import DEFAULT_LIMITS, Limits
from loader.postgres.connect_refusal import refusal
from loader.postgres.database_url import parse_url
from loader.postgres.errors import refused, translated

# A peer that is silent for 25 s (idle + interval x count) is taken for lost.
KEEPALIVES_IDLE_SECONDS = 10
KEEPALIVES_INTERVAL_SECONDS = 5
KEEPALIVES_COUNT = 3
# The limits for the server's response to a cancel request, and for a backend to end after pg_terminate_backend.
CANCEL_TIMEOUT_SECONDS = 1.0
TERMINATE_TIMEOUT_MILLISECONDS = 1_000

# Identifies the backends of this process in pg_stat_activity.
_RUN = secrets.token_hex(4)

# psycopg logs what it can't send to an aborted connection, in addition to raising an exception.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)

Connection = psycopg.Connection[tuple[object, ...]]

# With the keepalives the server drops a dead connection as quickly as the loader does: no backend outlives its loader.
# https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-TCP-KEEPALIVES-IDLE
# The others override settings of a role or a database: time limits shorter than an import, an isolation level in which two
# imports of one file don't see each other, commits that are reported before they are durable, other text formats, errors
# with a context that lists parameters (errors.py).
_SESSION_SETTINGS = f"""
SET tcp_keepalives_idle = {KEEPALIVES_IDLE_SECONDS};
SET tcp_keepalives_interval = {KEEPALIVES_INTERVAL_SECONDS};
SET tcp_keepalives_count = {KEEPALIVES_COUNT};
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET idle_session_timeout = 0;
SET default_transaction_isolation = 'read committed';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SET DateStyle = ISO;
SET standard_conforming_strings = on;
SET quote_all_identifiers = off;
SET log_parameter_max_length_on_error = 0;
SET client_min_messages = error
"""
# https://www.postgresql.org/docs/17/runtime-config-client.html#GUC-TRANSACTION-TIMEOUT
_SESSION_SETTINGS_17 = "; SET transaction_timeout = 0"
# Ends a backend that waits for a lock after its loader was killed: by default it checks its client only afterwards.
# https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-CLIENT-CONNECTION-CHECK-INTERVAL
_CHECK_CLIENT = b"SET client_connection_check_interval = '1s'"


class Database:
    """A Postgres database, and one attempt's connections to it."""

    def __init__(self, url: str, limits: Limits = DEFAULT_LIMITS, *, was_admitted: bool = False) -> None:
        """`was_admitted`: the server has accepted this role before, so that a refusal now counts as an outage."""
        self.url = url.strip()  # pasted, or from a file that ends with a newline
        self._limits = limits
        self._was_admitted = was_admitted
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self._aborted = False

    @contextlib.contextmanager
    def connection(self, purpose: str) -> Generator[Connection]:
        """Yield a connection in autocommit mode; pg_stat_activity shows `purpose`.

        Raises LoaderError, also for psycopg errors in the block; DATABASE_CONFIGURATION if the first connection is refused
        for its host, role, password, database, options or TLS.
        """
        with translated():
            connection = self._connect(purpose)
            try:
                self._admit(connection)
                _set_up(connection, self._limits.tcp_user_timeout_seconds)
                with contextlib.suppress(pg.InvalidParameterValue):  # not supported by a server on Windows
                    connection.execute(_CHECK_CLIENT)
                yield connection
            finally:
                with self._lock:  # so that `abort` never shuts down a reused descriptor
                    self._open.discard(connection)
                    connection.close()

    def refuse_shared_sessions(self, connection: Connection) -> None:
        """Raise DATABASE_UNSUPPORTED if a pooler shares a connection's session with others between transactions.

        Such a session keeps neither settings nor locks. A pooler invents process ids, and hands out the session that was
        released last. https://www.pgbouncer.org/features.html
        """
        session = _session(connection)
        if session == connection.info.backend_pid:
            return
        with self.connection("pooler") as other, other.transaction():
            if _session(other) != session:
                return
        raise LoaderError(
            FailureCode.DATABASE_UNSUPPORTED,
            "A pooler between the loader and the database keeps no session per connection.",
            "Connect to the server itself, or to a pooler in session mode.",
        )

    def _connect(self, purpose: str) -> Connection:
        parse_url(self.url)
        try:
            connection = self._open_connection(purpose)
        except pg.ConnectionTimeout:
            raise
        except UnicodeError as error:  # psycopg encodes it by IDNA; that of the URL was checked
            raise LoaderError(
                FailureCode.DATABASE_CONFIGURATION,
                "The name of the database's host is not valid.",
                "Correct the environment variable PGHOST, then run the same command again.",
            ) from error
        except psycopg.OperationalError as error:
            if (
                self._was_admitted
                or self._aborted
                or (found := refusal(self.url, self._limits.connect_timeout_seconds)) is None
            ):
                raise
            raise refused(error, found) from error
        self._was_admitted = True
        return connection

    def _open_connection(self, purpose: str) -> Connection:
        return psycopg.connect(
            self.url,
            autocommit=True,
            # A pooler need not keep prepared statements.
            prepare_threshold=None,
            connect_timeout=self._limits.connect_timeout_seconds,
            application_name=f"loader {_RUN} {purpose}",
            client_encoding="UTF8",
            keepalives_idle=KEEPALIVES_IDLE_SECONDS,
            keepalives_interval=KEEPALIVES_INTERVAL_SECONDS,
            keepalives_count=KEEPALIVES_COUNT,
            tcp_user_timeout=1000 * self._limits.tcp_user_timeout_seconds,
        )

    def _admit(self, connection: Connection) -> None:
        with self._lock:
            if self._aborted:
                raise LoaderError(
                    FailureCode.DATABASE_UNAVAILABLE,
                    "The connections were aborted.",
                    "Run the command again.",
                )
            self._open.add(connection)

    def waiting_backends(self) -> list[int]:
        """Return the process ids of the backends whose response the loader waits for."""
        with self._lock:
            connections = [each.info for each in self._open]
        return [
            each.backend_pid for each in connections if each.transaction_status is TransactionStatus.ACTIVE
        ]

    def abort(self) -> None:
        """Abort all connections within about CANCEL_TIMEOUT_SECONDS, from any thread, and allow no new ones.

        A cancel request ends a statement that runs or waits. It ends neither a backend that waits for COPY data nor a
        thread that writes them: for these the sockets are shut down.
        """
        with self._lock:
            self._aborted = True
            connections = list(self._open)
        threads = [threading.Thread(target=_cancel, args=(each,), daemon=True) for each in connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CANCEL_TIMEOUT_SECONDS)
        with self._lock:
            for connection in self._open:
                _shut_down(connection)


def write_early(connection: Connection) -> None:
    """Make the server write a session's pages to disk continuously, where its commit would write all of them.

    With wal_level=minimal a table that is created and filled in one transaction is not logged but synced at the commit. The
    value is the setting's maximum.
    https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-BACKEND-FLUSH-AFTER
    """
    connection.execute(
        "SELECT set_config('backend_flush_after', '2MB', false) WHERE current_setting('wal_level') = 'minimal'"
    )


def end_backends(connection: Connection) -> None:
    """Terminate the backends of this process's other connections, and wait until they have ended.

    A role that became another by SET ROLE may not terminate its own backends; they end by their connections' limits.
    """
    connection.execute(
        "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE usename = session_user"
        " AND pg_has_role(usesysid, 'USAGE') AND application_name LIKE %s AND pid <> pg_backend_pid()",
        [TERMINATE_TIMEOUT_MILLISECONDS, f"loader {_RUN} %"],
    )


def _session(connection: Connection) -> int:
    """Return the process id of the backend that serves the connection at present."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("SELECT pg_backend_pid()").fetchall()[0]


def _set_up(connection: Connection, tcp_user_timeout_seconds: int) -> None:
    has_transaction_timeout = connection.info.server_version >= 170000
    settings = f"{_SESSION_SETTINGS}; SET tcp_user_timeout = '{tcp_user_timeout_seconds}s'"
    if has_transaction_timeout:
        settings += _SESSION_SETTINGS_17
    connection.execute(settings.encode())


def _cancel(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error):  # its socket is shut down next
        connection.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)


def _shut_down(connection: Connection) -> None:
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=socket.dup(connection.fileno())) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)
