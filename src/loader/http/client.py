"""GET requests for one source: kept-alive connections, redirects, and an abort from any thread."""

from __future__ import annotations

import functools
import http.client
import ssl
import threading
from collections.abc import Container, Mapping

from loader.cancellation import raise_if_closed
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.connection import Dialer, HttpConnection
from loader.http.request_error import request_error
from loader.http.response import announced_length, check_status, protocol_error, truncated_body
from loader.http.retry import TransientError
from loader.http.url import HttpUrl, InvalidUrl
from loader.limits import RetryPolicy

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# More idle connections than there are concurrent requests go to servers that redirects led to before.
_MAX_IDLE = 16
# After a redirect these may mean that only its target has expired.
_EXPIRED = frozenset({FailureCode.SOURCE_FORBIDDEN, FailureCode.SOURCE_NOT_FOUND})


class Response:
    """A response whose body is not read yet. Call `finish` in the end."""

    def __init__(
        self,
        client: HttpClient,
        connection: HttpConnection,
        response: http.client.HTTPResponse,
        url: HttpUrl,
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.url = url
        self._client = client
        self._connection = connection
        self._response = response
        self._received_bytes = 0

    @functools.cached_property
    def announced_bytes(self) -> int | None:
        """The body's Content-Length, also in a chunked response. Raises SOURCE_PROTOCOL."""
        return announced_length(self.headers, self.url.location)

    @property
    def is_chunked(self) -> bool:
        """Whether a last chunk marks the body's end."""
        return self._response.chunked

    def receive(self, view: memoryview) -> int:
        """Fill `view` from the body; return how many bytes: fewer only at the body's announced end.

        Raises TransientError, with SOURCE_TRUNCATED for a body shorter than its Content-Length; SOURCE_PROTOCOL for a longer
        one.
        """
        filled = 0
        try:
            # http.client's readinto returns 0 both at the end and where the connection breaks before it
            while filled < len(view) and (count := self._response.readinto(view[filled:])):
                filled += count
        except (OSError, http.client.HTTPException) as error:
            raise self._client.broken(error, self.url) from error
        self._received_bytes += filled
        if self.announced_bytes is not None:
            missing_bytes = self.announced_bytes - self._received_bytes
            if missing_bytes < 0:
                raise protocol_error(self.url.location, "a body is longer than its Content-Length")
            if filled < len(view) and missing_bytes > 0:
                raise truncated_body(self.url.location, missing_bytes)
        return filled

    def finish(self) -> None:
        """Keep the connection for the next request if the body was read to its end; otherwise close it."""
        self._client.release(self._connection, reusable=self._response.isclosed())
        self._response.close()


class HttpClient:
    """Sends requests for one URL, or for the URL that it redirects to. For several threads at once."""

    def __init__(
        self, url: HttpUrl, dialer: Dialer, retry_policy: RetryPolicy, closed: threading.Event
    ) -> None:
        self._url = url
        self._target = url  # of the redirects; requested directly until it fails
        self._dialer = dialer
        self._retry_policy = retry_policy
        self._closed = closed
        # the system's authorities; OpenSSL itself reads SSL_CERT_FILE
        self._tls = ssl.create_default_context()
        self._lock = threading.Lock()
        self._idle: list[HttpConnection] = []
        self._busy: set[HttpConnection] = set()

    def get(self, headers: Mapping[str, str], accepted: Container[int] = ()) -> Response:
        """Send one request, and follow redirects. Returns responses with status 200, 204, 206, 412 or 416.

        `accepted`: more status codes that are returned. Raises TransientError for a failure that may pass, LoaderError for
        any other, SourceClosed.
        """
        start = self._target
        try:
            response = self._follow(start, headers, accepted)
        except TransientError:
            self._target = self._url
            raise
        except LoaderError as error:
            self._target = self._url
            if start is not self._url and error.code in _EXPIRED:
                raise TransientError(error) from error
            raise
        # a server that refuses a request is not asked again without the redirect that led to it
        self._target = self._url if response.status in accepted else response.url
        return response

    def close(self) -> None:
        """Close idle connections, abort busy ones. Never blocks; set `closed` before."""
        with self._lock:
            for connection in self._busy:
                connection.abort()
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def release(self, connection: HttpConnection, *, reusable: bool) -> None:
        """Keep a connection for the next request, or close it."""
        with self._lock:
            self._busy.discard(connection)
            if reusable and not self._closed.is_set():
                self._idle.append(connection)
                if len(self._idle) <= _MAX_IDLE:
                    return
                connection = self._idle.pop(0)
        connection.close()

    def _follow(self, url: HttpUrl, headers: Mapping[str, str], accepted: Container[int]) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            response = self._request(url, headers)
            try:
                if response.status not in _REDIRECTS:
                    if response.status not in accepted:
                        check_status(response.status, response.headers, url)
                    return response
                url = url.follow(response.headers.get("Location", ""))
            except InvalidUrl as error:
                response.finish()
                raise protocol_error(url.location, f"its redirect is refused: {error}") from error
            except (TransientError, LoaderError):
                response.finish()
                raise
            response.finish()
        raise protocol_error(self._url.location, f"more than {MAX_REDIRECTS} redirects")

    def _request(self, url: HttpUrl, headers: Mapping[str, str]) -> Response:
        authorization = {"Authorization": url.authorization} if url.authorization else {}
        common = {"Accept-Encoding": "identity", "User-Agent": "large-file-importer"}
        while True:
            connection = self._acquire(url)
            was_idle = connection.sock is not None
            try:
                connection.request("GET", url.target, headers={**common, **authorization, **headers})
                return Response(self, connection, connection.getresponse(), url)
            except (OSError, http.client.HTTPException) as error:
                self.release(connection, reusable=False)
                raise_if_closed(self._closed)
                # a server may close an idle connection at any time: no failure, the next connection is used
                if not was_idle or isinstance(error, TimeoutError):
                    raise self.broken(error, url) from error
            except BaseException:
                self.release(connection, reusable=False)
                raise

    def broken(
        self, error: OSError | http.client.HTTPException, url: HttpUrl
    ) -> TransientError | LoaderError:
        """Return the error of a request that has no complete response."""
        return request_error(error, url, self._retry_policy)

    def _acquire(self, url: HttpUrl) -> HttpConnection:
        with self._lock:
            for connection in self._idle:
                if connection.origin == url.origin:
                    self._idle.remove(connection)
                    break
            else:
                connection = HttpConnection(url, self._dialer, self._retry_policy, self._tls, self._closed)
            self._busy.add(connection)
        return connection
