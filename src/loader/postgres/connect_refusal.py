"""Why a first connection was refused: the server's SQLSTATE, or what libpq itself refuses. psycopg returns neither.

libpq's trace names each field of the server's response; since libpq 18 also before authentication.
https://www.postgresql.org/docs/current/libpq-control.html#LIBPQ-PQTRACE
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import select
import socket
import sys
import time

from psycopg import pq
from psycopg.conninfo import make_conninfo

# "B" marks a message of the backend, "F" one of ours. The fields are tagged: C is the SQLSTATE.
# https://www.postgresql.org/docs/current/protocol-error-fields.html
_ERROR = re.compile(rb'^B\t\d+\tErrorResponse\t.*? C "([0-9A-Z]{5})"', re.MULTILINE)
_TLS_RESPONSE = re.compile(rb"^B\t\d+\tSSLResponse\t", re.MULTILINE)
_STARTUP = re.compile(rb"^F\t\d+\tStartupMessage\t", re.MULTILINE)
_READY = re.compile(rb"^B\t\d+\tReadyForQuery\t", re.MULTILINE)
# Roles of a server that a loader can't load into. Another role may be assumed later, by one of several hosts.
_READ_ONLY_ATTRIBUTES = frozenset({b"read-only", b"standby"})


class ClientRefusal(enum.Enum):
    """What libpq refuses, or can't use, before the server has refused anything."""

    HOST = "host"  # no name server knows it
    OPTION = "option"  # an invalid value, an unknown service, a missing GSSAPI credential
    PASSWORD = "password"  # noqa: S105 - the server asks for one, and none is given
    TLS = "tls"  # not supported by one side, or a certificate is not accepted
    SESSION = "session"  # the server is not as target_session_attrs requires


def refusal(url: str, timeout_seconds: float) -> str | ClientRefusal | None:
    """Connect once more and return the SQLSTATE of the server's refusal, or what libpq refuses.

    None: unknown, or the server accepts. Without tracing (not Linux, or a libpq older than 18) only HOST and OPTION are
    recognized.
    """
    connection = pq.PGconn.connect_start(make_conninfo(url).encode())
    try:
        if connection.status == pq.ConnStatus.BAD:
            return _local_refusal(url, connection)
        return _traced_refusal(connection, timeout_seconds)
    finally:
        connection.finish()


def _local_refusal(url: str, connection: pq.abc.PGconn) -> ClientRefusal | None:
    """Return why a connection attempt ends at once; None: its address can't be reached."""
    options = _options(connection)
    hosts = options.get(b"host", b"").decode().split(",")
    if b"hostaddr" not in options and all(map(_is_unknown, hosts)):
        return ClientRefusal.HOST
    # to a listener of our own only the options can be at fault
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, port = listener.getsockname()
        here = make_conninfo(url, host="127.0.0.1", hostaddr="127.0.0.1", port=port)
        local = pq.PGconn.connect_start(here.encode())
        is_valid = local.status != pq.ConnStatus.BAD
        local.finish()
    return None if is_valid else ClientRefusal.OPTION


def _options(connection: pq.abc.PGconn) -> dict[bytes, bytes]:
    """Return the options in use, also those of the environment and of a service file."""
    return {option.keyword: option.val for option in connection.info if option.val}


def _is_unknown(host: str) -> bool:
    """Whether the name servers know no such host. A path of a socket, and no name at all, are not looked up."""
    if host.startswith(("/", "@")) or not host:
        return False
    with contextlib.suppress(UnicodeError):
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            return error.errno == socket.EAI_NONAME
    return False


def _traced_refusal(connection: pq.abc.PGconn, timeout_seconds: float) -> str | ClientRefusal | None:
    if sys.platform != "linux":
        return None  # psycopg traces on Linux only
    trace = os.memfd_create("loader trace")  # in memory, because it contains the password
    try:
        connection.trace(trace)
        connection.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        is_refused = _poll(connection, time.monotonic() + timeout_seconds)
        connection.untrace()  # flushes it
        return _read(os.pread(trace, os.fstat(trace).st_size, 0), connection) if is_refused else None
    finally:
        os.close(trace)


def _poll(connection: pq.abc.PGconn, deadline: float) -> bool:
    """Drive the connection attempt; return whether it failed before the deadline."""
    while (status := connection.connect_poll()) not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
        readers, writers = [connection.socket], [connection.socket]
        (writers if status == pq.PollingStatus.READING else readers).clear()
        if not any(select.select(readers, writers, [], max(0.0, deadline - time.monotonic()))):
            return False
    return status == pq.PollingStatus.FAILED


def _read(trace: bytes, connection: pq.abc.PGconn) -> str | ClientRefusal | None:
    if sqlstates := _ERROR.findall(trace):
        return sqlstates[-1].decode()
    if connection.needs_password:
        return ClientRefusal.PASSWORD
    if _READY.search(trace) is not None:
        options = _options(connection)
        is_one_host = b"," not in options.get(b"host", b"") + options.get(b"hostaddr", b"")
        is_lasting = is_one_host or options.get(b"target_session_attrs") in _READ_ONLY_ATTRIBUTES
        return ClientRefusal.SESSION if is_lasting else None
    is_tls = _TLS_RESPONSE.search(trace) is not None and _STARTUP.search(trace) is None
    return ClientRefusal.TLS if is_tls else None
