"""A file server on loopback, for the demo and the benchmarks: ranges, strong ETags, keep-alive, no copies (sendfile).

It runs in a process of its own, so that its CPU time is not the loader's.
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serve(folder: Path, options: Sequence[str] = (), enter: Sequence[str] = ()) -> Generator[str]:
    """Serve the files of a folder; yield the base URL, which has no slash at its end.

    `enter` is a command that runs the rest of its arguments elsewhere, such as in another network namespace.
    """
    command = [*enter, sys.executable, __file__, *options, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip() if server.stdout else ""
        finally:
            server.terminate()


class FileHandler(SimpleHTTPRequestHandler):
    """Answers GET and HEAD with a file or with one range of it (RFC 9110, sections 13 and 14)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the last bytes of an answer do not wait for an acknowledgement

    def do_GET(self) -> None:
        """Send the file, or the range asked for."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            with path.open("rb") as file:
                first, count = self._send_head(os.fstat(file.fileno()))
                if count > 0 and self.command == "GET":
                    self.connection.sendfile(file, first, count)
        except ConnectionError:  # the client has had enough
            self.close_connection = True

    def do_HEAD(self) -> None:
        """Send what GET would, without the bytes."""
        self.do_GET()

    def _send_head(self, status: os.stat_result) -> tuple[int, int]:
        """Send status and headers; return the offset and the number of the bytes that are to follow."""
        size = status.st_size
        etag = f'"{status.st_mtime_ns:x}-{status.st_ino:x}-{size:x}"'
        first, end = 0, size
        answer = HTTPStatus.OK
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if self.headers.get("If-Match", etag) not in (etag, "*"):
            answer = HTTPStatus.PRECONDITION_FAILED
        elif wanted and any(wanted.groups()):
            answer = HTTPStatus.PARTIAL_CONTENT
            if wanted[1]:
                first = int(wanted[1])
                end = min(int(wanted[2]) + 1, size) if wanted[2] else size
            else:
                first = max(size - int(wanted[2]), 0)
            if first >= end:
                answer = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE

        self.send_response(answer)
        if answer == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
        elif answer == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.send_header("Content-Range", f"bytes */{size}")
        count = end - first if answer in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT) else 0
        self.send_header("Content-Length", str(count))
        self.send_header("Content-Type", self.guess_type(self.translate_path(self.path)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", email.utils.formatdate(status.st_mtime, usegmt=True))
        self.end_headers()
        return first, count

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: a line a request would be most of the output."""


def main() -> None:
    """Serve a folder until interrupted; the one line of output is the base URL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="default: loopback only")
    parser.add_argument(
        "--congestion", help="how TCP is to answer lost packets, as cubic; default: the system's"
    )
    arguments = parser.parse_args()
    handler = partial(FileHandler, directory=str(arguments.folder))
    with ThreadingHTTPServer((arguments.host, arguments.port), handler) as server:
        if arguments.congestion:
            server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, arguments.congestion.encode())
        print(f"http://{arguments.host}:{server.server_port}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
