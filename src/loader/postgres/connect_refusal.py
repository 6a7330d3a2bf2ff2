"""The SQLSTATE of a refused connection, which libpq and psycopg do not return.

libpq's trace names each field of the server's response; since libpq 18 also before authentication.
https://www.postgresql.org/docs/current/libpq-control.html#LIBPQ-PQTRACE
"""

from __future__ import annotations

import os
import re
import select
import sys
import time

import psycopg
from psycopg import errors as pg
from psycopg import pq
from psycopg.conninfo import make_conninfo

# "B" marks a message of the backend, "F" one of ours. The fields are tagged: C is the SQLSTATE.
# https://www.postgresql.org/docs/current/protocol-error-fields.html
_ERROR = re.compile(rb'^B\t\d+\tErrorResponse\t.*? C "([0-9A-Z]{5})"', re.MULTILINE)
_TLS_RESPONSE = re.compile(rb"^B\t\d+\tSSLResponse\t", re.MULTILINE)
_STARTUP = re.compile(rb"^F\t\d+\tStartupMessage\t", re.MULTILINE)


def refusal(url: str, timeout_seconds: float) -> type[psycopg.Error] | None:
    """Connect once more and return the error class of the server's refusal; None: unknown, or the server accepts.

    A missing password, and TLS that fails before authentication, count as InvalidAuthorizationSpecification. Without
    tracing (not Linux, or a libpq older than 18) the result is always None.
    """
    if sys.platform != "linux":
        return None
    connection = pq.PGconn.connect_start(make_conninfo(url).encode())
    if connection.status == pq.ConnStatus.BAD:
        return None
    trace = os.memfd_create("loader trace")  # in memory, because it contains the password
    try:
        connection.trace(trace)
        connection.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        is_refused = _poll(connection, time.monotonic() + timeout_seconds)
        needs_password = bool(connection.needs_password)
        connection.untrace()  # flushes it
        return (
            _error_class(os.pread(trace, os.fstat(trace).st_size, 0), needs_password) if is_refused else None
        )
    finally:
        connection.finish()
        os.close(trace)


def _poll(connection: pq.abc.PGconn, deadline: float) -> bool:
    """Drive the connection attempt; return whether it failed before the deadline."""
    while (status := connection.connect_poll()) not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
        readers, writers = [connection.socket], [connection.socket]
        (writers if status == pq.PollingStatus.READING else readers).clear()
        if not any(select.select(readers, writers, [], max(0.0, deadline - time.monotonic()))):
            return False
    return status == pq.PollingStatus.FAILED


def _error_class(trace: bytes, needs_password: bool) -> type[psycopg.Error] | None:
    if codes := _ERROR.findall(trace):
        try:
            return pg.lookup(codes[-1].decode())
        except KeyError:  # a newer server's SQLSTATE
            return None
    tls_failed = _TLS_RESPONSE.search(trace) is not None and _STARTUP.search(trace) is None
    return pg.InvalidAuthorizationSpecification if needs_password or tls_failed else None
