"""GET requests for one source: kept-alive connections, redirects, and an end to all of it from any thread."""

from __future__ import annotations

import functools
import http.client
import ssl
import threading
from collections.abc import Mapping

from loader.cancellation import SourceClosed
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.connection import Dialer, HttpConnection
from loader.http.response import announced_length, check_status, cut_off, failed_attempt, protocol_error
from loader.http.retry import TransientError
from loader.http.url import HttpAddress, InvalidAddress
from loader.limits import RetryPolicy

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Of connections that wait for the next request: more than are asked side by side are left of servers that redirects led to.
_MAX_IDLE = 16
# After a redirect these may mean that only the target has expired.
_EXPIRED = frozenset({FailureCode.SOURCE_FORBIDDEN, FailureCode.SOURCE_NOT_FOUND})


class Response:
    """A response whose body is still to be read. Ends with `finish`."""

    def __init__(
        self,
        client: HttpClient,
        connection: HttpConnection,
        response: http.client.HTTPResponse,
        address: HttpAddress,
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.address = address
        self._client = client
        self._connection = connection
        self._response = response
        self._received_bytes = 0

    @functools.cached_property
    def announced_bytes(self) -> int | None:
        """The body's length by Content-Length, in whatever framing it comes. Raises SOURCE_PROTOCOL."""
        return announced_length(self.headers, self.address.location)

    @property
    def is_chunked(self) -> bool:
        """Whether the body's end is marked by a last chunk."""
        return self._response.chunked

    @property
    def is_delimited(self) -> bool:
        """Whether the body's end is announced or marked, rather than being where the connection ends."""
        return self.is_chunked or self.announced_bytes is not None

    def receive(self, view: memoryview) -> int:
        """Fill `view` from the body; return how many bytes: fewer only where the body ends as announced.

        Raises AttemptFailed, for a body shorter than its Content-Length with SOURCE_TRUNCATED; SOURCE_PROTOCOL for a longer.
        """
        filled = 0
        try:
            # http.client's readinto returns 0 both at the end and where the connection breaks before it
            while filled < len(view) and (count := self._response.readinto(view[filled:])):
                filled += count
        except (OSError, http.client.HTTPException) as error:
            raise failed_attempt(error, self.address.location) from error
        self._received_bytes += filled
        if self.announced_bytes is not None:
            missing_bytes = self.announced_bytes - self._received_bytes
            if missing_bytes < 0:
                raise protocol_error(self.address.location, "a body is longer than its Content-Length")
            if filled < len(view) and missing_bytes > 0:
                raise cut_off(self.address.location, missing_bytes)
        return filled

    def finish(self) -> None:
        """Keep the connection for the next request if the body was read to its end; else close it."""
        self._client.take_back(self._connection, reusable=self._response.isclosed())
        self._response.close()


class HttpClient:
    """Asks one address, or what it redirects to. For several threads at once."""

    def __init__(
        self, address: HttpAddress, dialer: Dialer, retry_policy: RetryPolicy, closed: threading.Event
    ) -> None:
        self._address = address
        self._target = address  # where redirects have led; asked directly until it fails
        self._dialer = dialer
        self._retry_policy = retry_policy
        self._closed = closed
        # the system's authorities; OpenSSL looks at SSL_CERT_FILE itself
        self._tls = ssl.create_default_context()
        self._lock = threading.Lock()
        self._idle: list[HttpConnection] = []
        self._busy: set[HttpConnection] = set()

    def get(self, headers: Mapping[str, str]) -> Response:
        """Ask once, and follow redirects. Status 200, 206, 412 or 416: others are raised.

        Raises AttemptFailed for what may pass, LoaderError for what won't, SourceClosed.
        """
        start = self._target
        try:
            answer = self._follow(start, headers)
        except TransientError:
            self._target = self._address
            raise
        except LoaderError as error:
            self._target = self._address
            if start is not self._address and error.code in _EXPIRED:
                raise TransientError(error) from error
            raise
        self._target = answer.address
        return answer

    def close(self) -> None:
        """Close what is idle, abort what is busy. Never blocks; `closed` is set before."""
        with self._lock:
            for connection in self._busy:
                connection.abort()
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def take_back(self, connection: HttpConnection, *, reusable: bool) -> None:
        """Take a connection back from its answer."""
        with self._lock:
            self._busy.discard(connection)
            if reusable and not self._closed.is_set():
                self._idle.append(connection)
                if len(self._idle) <= _MAX_IDLE:
                    return
                connection = self._idle.pop(0)
        connection.close()

    def _follow(self, address: HttpAddress, headers: Mapping[str, str]) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._ask(address, headers)
            try:
                if answer.status not in _REDIRECTS:
                    check_status(answer.status, answer.headers, address.location)
                    return answer
                address = address.follow(answer.headers.get("Location", ""))
            except InvalidAddress as error:
                answer.finish()
                raise protocol_error(address.location, f"its redirect is refused: {error}") from error
            except (TransientError, LoaderError):
                answer.finish()
                raise
            answer.finish()
        raise protocol_error(self._address.location, f"more than {MAX_REDIRECTS} redirects")

    def _ask(self, address: HttpAddress, headers: Mapping[str, str]) -> Response:
        authorization = {"Authorization": address.authorization} if address.authorization else {}
        common = {"Accept-Encoding": "identity", "User-Agent": "large-file-importer"}
        while True:
            connection = self._take(address)
            was_idle = connection.sock is not None
            try:
                connection.request("GET", address.target, headers={**common, **authorization, **headers})
                return Response(self, connection, connection.getresponse(), address)
            except (OSError, http.client.HTTPException) as error:
                self.take_back(connection, reusable=False)
                if self._closed.is_set():
                    raise SourceClosed from error
                # a server may close a connection that was idle at any time: no failure, the next one is asked
                if not was_idle or isinstance(error, TimeoutError):
                    raise failed_attempt(error, address.location) from error
            except BaseException:
                self.take_back(connection, reusable=False)
                raise

    def _take(self, address: HttpAddress) -> HttpConnection:
        with self._lock:
            for connection in self._idle:
                if connection.origin == address.origin:
                    self._idle.remove(connection)
                    break
            else:
                connection = HttpConnection(
                    address, self._dialer, self._retry_policy, self._tls, self._closed
                )
            self._busy.add(connection)
        return connection
