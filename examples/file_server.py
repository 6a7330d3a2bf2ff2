"""A file server for the demo and the benchmarks: ranges, strong ETags, keep-alive, sendfile.

It runs as its own process, so that its CPU time is not counted as the loader's. `FILE?times=N` is a file's first line
followed by N copies of the others: a file of any size with the disk and memory use of one. `GET /sent` returns the
number of bytes of files sent so far. It imports nothing of the project, as compose.yaml mounts this file alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

SENT = "/sent"


@contextmanager
def serve(folder: Path, options: Sequence[str] = (), enter: Sequence[str] = ()) -> Generator[str]:
    """Serve the files of a folder; yield the base URL, without a trailing slash.

    `enter` is a command that runs its arguments elsewhere, such as in another network namespace.
    """
    command = [*enter, sys.executable, __file__, *options, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip() if server.stdout else ""
        finally:
            server.terminate()


class _Counter:
    """A counter for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.total += count


_sent_bytes = _Counter()  # of files, complete responses only


class _Repeated:
    """A file's first line, followed by its other lines `times` times."""

    def __init__(self, file: BinaryIO, times: int) -> None:
        self._file = file
        self._header = len(file.readline()) if times > 1 else 0
        self._body = os.fstat(file.fileno()).st_size - self._header
        self.size = self._header + self._body * times

    def send(self, connection: socket.socket, first: int, end: int) -> None:
        """Send the bytes [first, end)."""
        while first < end:
            offset = first if first < self._header else self._header + (first - self._header) % self._body
            count = min(end - first, self._header + self._body - offset)
            connection.sendfile(self._file, offset, count)
            first += count


class FileHandler(SimpleHTTPRequestHandler):
    """Answers GET and HEAD with a file or with one range of it (RFC 9110, sections 13 and 14)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the end of a response does not wait for an acknowledgement

    def do_GET(self) -> None:
        """Send the file, or the range asked for."""
        if self.path == SENT:
            self._send_text(str(_sent_bytes.total))
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        times = parse_qs(urlsplit(self.path).query).get("times", ["1"])[0]
        try:
            with path.open("rb") as file:
                content = _Repeated(file, int(times))
                first, end = self._send_head(content.size, f"{os.fstat(file.fileno()).st_mtime_ns:x}-{times}")
                if self.command == "GET":
                    content.send(self.connection, first, end)
                    _sent_bytes.add(end - first)
        except ConnectionError:  # the client has closed it
            self.close_connection = True

    def do_HEAD(self) -> None:
        """Send the headers of GET."""
        self.do_GET()

    def _send_text(self, text: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _send_head(self, size: int, version: str) -> tuple[int, int]:
        """Send status and headers; return the range of bytes to send, [first, end)."""
        etag = f'"{version}-{size:x}"'
        first, end = 0, size
        status = HTTPStatus.OK
        requested = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if self.headers.get("If-Match", etag) not in (etag, "*"):
            status = HTTPStatus.PRECONDITION_FAILED
        elif requested and any(requested.groups()):
            status = HTTPStatus.PARTIAL_CONTENT
            if requested[1]:
                first = int(requested[1])
                end = min(int(requested[2]) + 1, size) if requested[2] else size
            else:
                first = max(size - int(requested[2]), 0)
            if first >= end:
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE

        self.send_response(status)
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
        elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.send_header("Content-Range", f"bytes */{size}")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            end = first
        self.send_header("Content-Length", str(end - first))
        self.send_header("Content-Type", self.guess_type(self.translate_path(self.path)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        self.end_headers()
        return first, end

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing: a line per request would flood the output."""


def main() -> None:
    """Serve a folder until interrupted; print the base URL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    parser.add_argument(
        "--congestion", help="congestion control of TCP, such as cubic, on Linux; default: the system's"
    )
    arguments = parser.parse_args()
    handler = partial(FileHandler, directory=str(arguments.folder))
    with ThreadingHTTPServer((arguments.host, arguments.port), handler) as server:
        if arguments.congestion and sys.platform == "linux":
            server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, arguments.congestion.encode())
        print(f"http://{arguments.host}:{server.server_port}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
