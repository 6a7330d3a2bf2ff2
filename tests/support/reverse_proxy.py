"""A reverse proxy that serves a service below a path prefix, as nginx's `location /importer/` does."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import httpx

# https://www.rfc-editor.org/rfc/rfc9110.html#section-7.6.1; the body is sent as it comes, until the connection ends
_HOP_BY_HOP = {"connection", "transfer-encoding", "date", "server"}


class ReverseProxy:
    """Forwards `url` + PREFIX + path to a service, with or without the prefix, while the context lasts."""

    def __init__(self, service_url: str, prefix: str, *, strips_prefix: bool) -> None:
        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65_536)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                assert self.path.startswith(f"{prefix}/")  # it serves nothing else
                path = self.path.removeprefix(prefix) if strips_prefix else self.path
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                with httpx.stream(
                    self.command,
                    service_url + path,
                    headers=list(self.headers.items()),
                    content=body,
                    timeout=60,
                    trust_env=False,
                ) as response:
                    self.send_response_only(response.status_code)
                    for name, value in response.headers.multi_items():
                        if name not in _HOP_BY_HOP:
                            self.send_header(name, value)
                    self.end_headers()
                    for chunk in response.iter_raw():
                        self.wfile.write(chunk)
                self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ReverseProxy:
        threading.Thread(target=self._server.serve_forever).start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
