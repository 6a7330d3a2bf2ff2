"""One kept-alive connection to a server: dialled, wrapped in TLS, metered against trickling, abortable from any thread."""

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

from loader.cancellation import SourceClosed
from loader.http.address_policy import AddressPolicy
from loader.http.url import DEFAULT_PORTS, HttpAddress
from loader.limits import RetryPolicy

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


# As getaddrinfo has them; the last form is that of a Python which was built without IPv6.
SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
Resolve = Callable[[str, int], list[tuple[socket.AddressFamily, SocketAddress]]]

# Of a name's addresses so many are tried: a name with a thousand dead ones would take hours.
_MAX_ADDRESSES = 8
# What an answer may send before its body: status, headers, and interim answers (RFC 9110, 15.2) ahead of them. Servers
# end at 8 to 64 KiB themselves.
_HEAD_BYTES = 256 * 1024
# What a body may have on the wire for each byte that is asked of it, and beyond that: chunks of a few bytes pass; frames,
# extensions and trailers (RFC 9112, 7.1) without data, of which http.client reads any number, do not.
_WIRE_BYTES_PER_BYTE = 16
_WIRE_SLACK_BYTES = 64 * 1024


def resolve_name(host: str, port: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """Ask the system for all addresses of a name. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


class Dialer:
    """Opens TCP connections: the only place that dials a source. `policy` None: to anywhere."""

    def __init__(self, policy: AddressPolicy | None, resolve: Resolve = resolve_name) -> None:
        self._policy = policy
        self._resolve = resolve

    def dial(
        self, host: str, port: int, timeout_seconds: float, adopt: Callable[[socket.socket], None]
    ) -> socket.socket:
        """Connect to an address of `host` that answers, one of the first few, if the policy lets all of them pass.

        `adopt` is told each socket before it connects. Raises OSError, SOURCE_REFUSED, and what `adopt` raises.
        """
        # asked once: a second answer could be another one than that which was checked
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
    except BaseException:
        candidate.close()
        raise
    return candidate


class _Meter(io.RawIOBase):
    """A socket's bytes, counted against the time spent waiting for them, and against what there may be of them."""

    def __init__(self, raw: io.RawIOBase, retry_policy: RetryPolicy) -> None:
        super().__init__()
        self._raw = raw
        self._retry_policy = retry_policy
        self._waited_seconds = 0.0  # for the server; a pause of the reader does not count
        self._received_bytes = 0
        self._allowed_bytes = 0
        self.has_ended = False  # the server has closed its side

    def allow(self, count: int) -> None:
        """Let so many bytes pass from here on."""
        self._allowed_bytes = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer) or 0
        self._waited_seconds += time.monotonic() - began
        self._received_bytes += count
        self._allowed_bytes -= count
        self.has_ended = count == 0
        if self._allowed_bytes < 0:
            raise http.client.HTTPException("more headers or frames than an answer has")
        if self._waited_seconds >= self._retry_policy.low_speed_window_seconds:
            if (
                self._received_bytes
                < self._retry_policy.low_speed_limit_bytes_per_second * self._waited_seconds
            ):
                raise TimeoutError(errno.ETIMEDOUT, "the server trickles")
            self._waited_seconds, self._received_bytes = 0.0, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _metered_response(retry_policy: RetryPolicy) -> type[http.client.HTTPResponse]:
    class MeteredResponse(http.client.HTTPResponse):
        def __init__(
            self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
        ) -> None:
            super().__init__(sock, debuglevel, method, url)
            self._meter = _Meter(self.fp.detach(), retry_policy)
            self.fp = io.BufferedReader(self._meter)

        def begin(self) -> None:
            self._meter.allow(_HEAD_BYTES)
            super().begin()
            while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
                # http.client passes over 100 alone; without headers it reads the next status
                vars(self)["headers"] = None
                super().begin()
            if self._meter.has_ended:  # http.client takes headers that are cut off for all of them
                raise http.client.RemoteDisconnected("within the headers")

        def readinto(self, b: WriteableBuffer) -> int:
            self._meter.allow(_WIRE_BYTES_PER_BYTE * memoryview(b).nbytes + _WIRE_SLACK_BYTES)
            count = super().readinto(b)
            if self.chunked and self._meter.has_ended:
                # it takes `0`, the beginning of a chunk's size, for the last chunk
                raise http.client.IncompleteRead(b"")
            return count

    return MeteredResponse


class HttpConnection(http.client.HTTPConnection):
    """A connection to the origin of an address; connects at the first request, and anew when the server closed it."""

    def __init__(
        self,
        address: HttpAddress,
        dialer: Dialer,
        retry_policy: RetryPolicy,
        tls: ssl.SSLContext,
        closed: threading.Event,
    ) -> None:
        super().__init__(address.host, address.port)
        self.default_port = DEFAULT_PORTS[address.scheme]
        self.response_class = _metered_response(retry_policy)
        self.origin = address.origin
        self._dialer = dialer
        self._tls = tls if address.scheme == "https" else None
        self._retry_policy = retry_policy
        self._closed = closed
        self._abortable: socket.socket | None = None

    def connect(self) -> None:
        """Dial, and shake hands. Raises OSError (ssl.SSLError is one), SOURCE_REFUSED and SourceClosed."""
        connected = self._dialer.dial(self.host, self.port, self._retry_policy.connect_seconds, self._adopt)
        connected.settimeout(self._retry_policy.silence_seconds)
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
        """Make whatever another thread waits for on this connection end at once."""
        if self._abortable is not None:
            with contextlib.suppress(OSError):
                # not SSLSocket's own: after it a thread that is still reading would get the encrypted bytes as data
                socket.socket.shutdown(self._abortable, socket.SHUT_RDWR)

    def _adopt(self, candidate: socket.socket) -> None:
        # in this order: either `abort` comes later and finds the socket, or it came before and this finds it out
        self._abortable = candidate
        if self._closed.is_set():
            raise SourceClosed
