"""One kept-alive connection to a server: dialed, wrapped in TLS, monitored for low speed, abortable from any thread."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from loader.cancellation import raise_if_closed
from loader.http.address_policy import AddressPolicy
from loader.http.url import DEFAULT_PORTS, HttpUrl
from loader.limits import RetryPolicy

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


# As getaddrinfo returns them; the last form is that of a Python without IPv6.
SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
Resolve = Callable[[str, int], list[tuple[socket.AddressFamily, SocketAddress]]]

# Of a name's addresses: a name with a thousand dead ones would take hours.
_MAX_ADDRESSES = 8
# Before the body: status, headers, and interim responses (RFC 9110, 15.2). Servers limit their headers to 8 to 64 KiB.
_MAX_HEAD_BYTES = 256 * 1024
# On the wire, for each byte of a body and in addition: this allows chunks of a few bytes. http.client would read any number
# of frames, extensions and trailers (RFC 9112, 7.1) without data.
_WIRE_BYTES_PER_BYTE = 16
_WIRE_SLACK_BYTES = 64 * 1024


class ConnectTimeout(TimeoutError):
    """No connection within the time limit."""


class LowSpeed(TimeoutError):
    """The server sends, but fewer bytes than the low speed limit."""


def resolve_name(host: str, port: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """Resolve a name to all its addresses. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


class Dialer:
    """Opens TCP connections to sources; nothing else does. `policy` None: any address is allowed."""

    def __init__(self, policy: AddressPolicy | None, resolve: Resolve = resolve_name) -> None:
        self._policy = policy
        self._resolve = resolve

    def dial(
        self, host: str, port: int, timeout_seconds: float, adopt: Callable[[socket.socket], None]
    ) -> socket.socket:
        """Connect to the first address of `host` that accepts, if the policy allows all of them.

        `adopt` gets each socket before it connects. Raises OSError, SOURCE_REFUSED, and what `adopt` raises.
        """
        # resolved once: a second resolution could return other addresses than the checked ones
        found = self._resolve(host, port)
        if self._policy is not None:
            self._policy.check(host, port, [str(address[0]) for _, address in found])
        failure = OSError(errno.EADDRNOTAVAIL, "the name has no address")
        for family, address in found[:_MAX_ADDRESSES]:
            try:
                return _connect(family, address, timeout_seconds, adopt)
            except OSError as error:
                failure = error
        raise failure


def _connect(
    family: socket.AddressFamily,
    address: SocketAddress,
    timeout_seconds: float,
    adopt: Callable[[socket.socket], None],
) -> socket.socket:
    candidate = socket.socket(family, socket.SOCK_STREAM)
    try:
        adopt(candidate)
        candidate.settimeout(timeout_seconds)
        candidate.connect(address)
    except TimeoutError as error:
        candidate.close()
        raise ConnectTimeout from error
    except BaseException:
        candidate.close()
        raise
    return candidate


class _LowSpeedMonitor(io.RawIOBase):
    """A socket's bytes, with a minimum speed and a maximum count. Raises TimeoutError and HTTPException beyond them."""

    def __init__(self, raw: io.RawIOBase, retry_policy: RetryPolicy) -> None:
        super().__init__()
        self._raw = raw
        self._retry_policy = retry_policy
        # for the server, since its first byte: that alone has the read timeout; pauses of the reader do not count
        self._waited_seconds = 0.0
        self._has_started = False
        self._received_bytes = 0
        self._allowed_bytes = 0
        self.has_ended = False  # the server has closed its side

    def allow(self, count: int) -> None:
        """Allow so many bytes from now on."""
        self._allowed_bytes = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer) or 0
        if self._has_started:
            self._waited_seconds += time.monotonic() - began
        self._has_started = True
        self._received_bytes += count
        self._allowed_bytes -= count
        self.has_ended = count == 0
        if self._allowed_bytes < 0:
            raise http.client.HTTPException("too many headers or frames")
        if self._waited_seconds >= self._retry_policy.low_speed_window_seconds:
            if (
                self._received_bytes
                < self._retry_policy.low_speed_limit_bytes_per_second * self._waited_seconds
            ):
                raise LowSpeed
            self._waited_seconds, self._received_bytes = 0.0, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _monitored_response(retry_policy: RetryPolicy) -> type[http.client.HTTPResponse]:
    class MonitoredResponse(http.client.HTTPResponse):
        def __init__(
            self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
        ) -> None:
            super().__init__(sock, debuglevel, method, url)
            self._monitor = _LowSpeedMonitor(self.fp.detach(), retry_policy)
            self.fp = io.BufferedReader(self._monitor)

        def begin(self) -> None:
            self._monitor.allow(_MAX_HEAD_BYTES)
            super().begin()
            while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
                # http.client skips only 100; without headers it reads the next status
                vars(self)["headers"] = None
                super().begin()
            if self._monitor.has_ended:  # http.client treats truncated headers as complete
                raise http.client.RemoteDisconnected("within the headers")

        def readinto(self, b: WriteableBuffer) -> int:
            self._monitor.allow(_WIRE_BYTES_PER_BYTE * memoryview(b).nbytes + _WIRE_SLACK_BYTES)
            count = super().readinto(b)
            if self.chunked and self._monitor.has_ended:
                # it treats `0`, the start of a chunk's size, as the last chunk
                raise http.client.IncompleteRead(b"")
            return count

    return MonitoredResponse


class HttpConnection(http.client.HTTPConnection):
    """A connection to the origin of a URL. It connects at the first request, and again after the server has closed it."""

    def __init__(
        self,
        url: HttpUrl,
        dialer: Dialer,
        retry_policy: RetryPolicy,
        tls: ssl.SSLContext,
        closed: threading.Event,
    ) -> None:
        super().__init__(url.host, url.port)
        self.default_port = DEFAULT_PORTS[url.scheme]
        self.response_class = _monitored_response(retry_policy)
        self.origin = url.origin
        self._dialer = dialer
        self._tls = tls if url.scheme == "https" else None
        self._retry_policy = retry_policy
        self._closed = closed
        self._abortable: socket.socket | None = None

    def connect(self) -> None:
        """Dial, and do the TLS handshake. Raises OSError (ssl.SSLError is one), SOURCE_REFUSED and SourceClosed."""
        connected = self._dialer.dial(self.host, self.port, self._retry_policy.connect_seconds, self._adopt)
        connected.settimeout(self._retry_policy.read_timeout_seconds)
        try:
            if self._tls is not None:
                connected = self._tls.wrap_socket(
                    connected, server_hostname=self.host, do_handshake_on_connect=False
                )
                self._adopt(connected)
                connected.do_handshake()
        except BaseException:
            connected.close()
            raise
        self.sock = connected

    def abort(self) -> None:
        """End at once what another thread waits for on this connection."""
        if self._abortable is not None:
            with contextlib.suppress(OSError):
                # not SSLSocket's: after that a thread that still reads would get encrypted bytes as data
                socket.socket.shutdown(self._abortable, socket.SHUT_RDWR)

    def _adopt(self, candidate: socket.socket) -> None:
        # in this order: `abort` either comes later and finds the socket, or has come before and `closed` is set
        self._abortable = candidate
        raise_if_closed(self._closed)
