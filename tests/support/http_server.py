"""A real HTTP/1.1 server for tests, on its own port. It serves one file, or misbehaves in chosen responses."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn, cast

from loader.source.base import TAIL_BYTES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_SEND_BYTES = 1 << 20


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    number: int  # counted from 0
    target: str
    headers: Mapping[str, str]  # names in lower case
    is_tail: bool  # of the last bytes exactly, as a probe asks for them

    @property
    def first(self) -> int | None:
        """First byte of the range that was asked for; None: the whole file."""
        match = _RANGE.fullmatch(self.headers.get("range", ""))
        return int(match[1]) if match else None


@dataclass(frozen=True)
class Fault:
    """What is wrong with one response."""

    status: int | None = None  # with an empty body, unless `body` says otherwise
    body: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict[str, str | None])  # None: leave it out
    ignore_range: bool = False
    range_bytes: int | None = None  # send no more than this of a range
    framing: Literal["length", "chunked", "close"] = "length"
    body_bytes: int | None = None  # stop after so many bytes of the body
    then: Literal["close", "reset", "stall", "keep"] = "close"  # how it stops
    trickle_seconds: float | None = None  # send small pieces, so far apart
    trickle_bytes: int = 1  # of such a piece
    before: Literal["close", "reset", "stall"] | None = None  # no response
    latency_seconds: float = 0  # before the response
    response_bytes: int | None = (
        None  # close the connection after so many bytes of the response, headers included
    )
    raw: Callable[[], Iterable[bytes]] | None = None  # send this, whatever it is, and hang up


class HttpServer:
    """Serves `content` at every path, within `with`. What it should do may be changed at any time."""

    def __init__(
        self,
        content: bytes | Path,
        *,
        etag: str | None = '"v1"',
        last_modified: str | None = None,
        ranges: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.content = content
        self.etag = etag
        self.last_modified = last_modified
        self.ranges = ranges
        self.faults: list[Fault | None] = []  # of the next responses, in the order of the requests
        # once `faults` is used up; a probe's look at the tail is not its business, or no rule could tell it from late ranges
        self.rule: Callable[[Request], Fault | None] = lambda _: None
        self.requests: list[Request] = []
        self.cut_handshakes = 0  # of the next connections, in the middle of TLS' handshake
        self.connection_count = 0
        self.most_at_once = 0
        self.over = threading.Event()
        self._tls = tls
        self._lock = threading.Lock()
        self.at_once = 0
        self._sockets: set[socket.socket] = set()
        self._server = _Server(self, ("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.drop_connections()

    @property
    def port(self) -> int:
        """The port that the system chose."""
        return self._server.server_address[1]

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    @property
    def url(self) -> str:
        """The URL of the file."""
        return f"{self.origin}/trips.csv"

    @property
    def size_bytes(self) -> int:
        """Of the file as it is now."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def drop_connections(self) -> None:
        """Hang up on everyone, the idle ones too."""
        with self._lock:
            for connected in self._sockets:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def begin(self, target: str, headers: Mapping[str, str]) -> tuple[Request, Fault | None]:
        """Record a request; return the fault of its response."""
        with self._lock:
            tail = f"bytes={self.size_bytes - TAIL_BYTES}-{self.size_bytes - 1}"
            request = Request(len(self.requests), target, headers, headers.get("range") == tail)
            self.requests.append(request)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            if self.faults:
                return request, self.faults.pop(0)
        return request, None if request.is_tail else self.rule(request)

    def end(self) -> None:
        """Count a response as ended."""
        with self._lock:
            self.at_once -= 1

    def opened(self, connected: socket.socket) -> socket.socket:
        """Greet a new connection, with TLS if the server has it."""
        if self.cut_handshakes > 0:
            self.cut_handshakes -= 1
            connected.recv(1)  # the first byte of the client's hello
            connected.close()
        if self._tls is not None:
            connected = self._tls.wrap_socket(connected, server_side=True)
        with self._lock:
            self.connection_count += 1
            self._sockets.add(connected)
        return connected

    def closed(self, connected: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._sockets.discard(connected)

    def pieces(self, first: int, end: int) -> Iterator[bytes]:
        """Read the file."""
        if isinstance(self.content, bytes):
            yield from (
                self.content[at : min(at + _SEND_BYTES, end)] for at in range(first, end, _SEND_BYTES)
            )
            return
        with self.content.open("rb") as file:
            for at in range(first, end, _SEND_BYTES):
                yield os.pread(file.fileno(), min(_SEND_BYTES, end - at), at)


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, owner: HttpServer, address: tuple[str, int]) -> None:
        self.owner = owner
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


class _HungUpError(Exception):
    pass


class _Cut(io.BufferedIOBase):
    """Passes so many bytes of a response, then closes the connection."""

    def __init__(self, whole: io.BufferedIOBase, left_bytes: int) -> None:
        self._whole = whole
        self._left_bytes = left_bytes

    def write(self, data: ReadableBuffer, /) -> int:
        count = memoryview(data).nbytes
        self._whole.write(memoryview(data)[: self._left_bytes])
        self._left_bytes -= count
        if self._left_bytes <= 0:
            self._whole.flush()
            raise _HungUpError
        return count


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    request: socket.socket

    def setup(self) -> None:
        self.owner = cast("_Server", self.server).owner  # typeshed knows only the base class
        self.request = self.owner.opened(self.request)
        super().setup()

    def finish(self) -> None:
        self.owner.closed(self.request)
        with contextlib.suppress(OSError):
            super().finish()
        self.request.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Tests read `requests` instead."""

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request, fault = self.owner.begin(self.path, headers)
        try:
            self._respond(request, fault or Fault())
        except (_HungUpError, OSError):
            self.close_connection = True
        finally:
            self.owner.end()

    def _respond(self, request: Request, fault: Fault) -> None:
        if self.owner.over.wait(fault.latency_seconds):
            raise _HungUpError
        if fault.before is not None:
            self._stop(fault.before)
        if fault.raw is not None:
            self._send_raw(fault.raw())
        if fault.response_bytes is not None:
            self.wfile = _Cut(self.wfile, fault.response_bytes)
        status, headers, first, end = self._choose(request, fault)
        if fault.framing == "length":
            headers.setdefault("Content-Length", str(end - first if fault.body is None else len(fault.body)))
        elif fault.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Connection"] = "close"
        self.send_response_only(status)
        for name, value in {**headers, **fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self._send_body(self.owner.pieces(first, end) if fault.body is None else iter([fault.body]), fault)
        if fault.framing == "close":
            self.close_connection = True

    def _choose(self, request: Request, fault: Fault) -> tuple[int, dict[str, str | None], int, int]:
        owner, size = self.owner, self.owner.size_bytes
        headers: dict[str, str | None] = {"ETag": owner.etag, "Last-Modified": owner.last_modified}
        if fault.status is not None:
            return fault.status, headers, 0, 0
        if request.headers.get("if-match", owner.etag) != owner.etag:
            return 412, headers, 0, 0
        if request.headers.get("if-unmodified-since", owner.last_modified) != owner.last_modified:
            return 412, headers, 0, 0
        match = _RANGE.fullmatch(request.headers.get("range", ""))
        if match is None or not owner.ranges or fault.ignore_range:
            return 200, headers, 0, size
        first, end = int(match[1]), min(size, int(match[2] or size) + 1)
        if first >= size:
            return 416, {**headers, "Content-Range": f"bytes */{size}"}, 0, 0
        if fault.range_bytes is not None:
            end = min(end, first + fault.range_bytes)
        return 206, {**headers, "Content-Range": f"bytes {first}-{end - 1}/{size}"}, first, end

    def _send_body(self, pieces: Iterator[bytes], fault: Fault) -> None:
        left = fault.body_bytes
        for piece in pieces:
            data = piece if left is None else piece[:left]
            if fault.framing == "chunked" and data:
                self._send(b"%x\r\n%b\r\n" % (len(data), data), fault)
            else:
                self._send(data, fault)
            if left is not None and (left := left - len(data)) == 0:
                break
        if left == 0 and fault.then != "keep":
            self._stop(fault.then)
        if fault.framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, data: bytes, fault: Fault) -> None:
        if fault.trickle_seconds is None:
            self.wfile.write(data)
            return
        for at in range(0, len(data), fault.trickle_bytes):
            self.wfile.write(data[at : at + fault.trickle_bytes])
            if self.owner.over.wait(fault.trickle_seconds):
                raise _HungUpError

    def _send_raw(self, pieces: Iterable[bytes]) -> NoReturn:
        for piece in pieces:
            self.wfile.write(piece)
            if self.owner.over.is_set():
                break
        raise _HungUpError

    def _stop(self, how: Literal["close", "reset", "stall"]) -> None:
        if how == "reset":
            # the kernel sends RST instead of the data that is not sent yet
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "stall":
            self.owner.over.wait()
        raise _HungUpError
