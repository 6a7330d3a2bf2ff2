"""The client of the REST API: requests, responses as structs, problems as exceptions."""

from __future__ import annotations

import math
import re
import ssl
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

import httpx
import msgspec

from importer.api.schemas import Import, ImportPage
from importer.model import FINISHED, State
from loader.contract import ExitCode

T = TypeVar("T")

# The service handles a request in milliseconds; a machine that is stopped for a moment needs longer.
_TIMEOUT_SECONDS = 30.0
# Three times the interval of the comments in an event stream (events.py).
_EVENTS_TIMEOUT_SECONDS = 45.0
# A restart of the service takes seconds; the recovery of the embedded PostgreSQL can take minutes.
_RECONNECT_SECONDS = 300.0
_RECONNECT_DELAY_SECONDS = 1.0
_PAGE_LENGTH = 200

# The values that every proxy and server accepts: https://www.rfc-editor.org/rfc/rfc9110.html#section-5.5
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")

# The service's own 503, and the errors of a proxy while the service restarts.
_TEMPORARY = frozenset({502, 503, 504})
_EXIT_CODES = {500: ExitCode.INTERNAL, 507: ExitCode.OUT_OF_SPACE}

_SET_SERVER = "Set the URL of the service with --server or IMPORTER_URL."


class RequestFailed(Exception):
    """A request got no response, or an error: what happened, what to do next, and the exit code."""

    def __init__(self, code: str, message: str, hint: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class Unavailable(RequestFailed):
    """The service did not respond, or responded with a temporary error."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(code, message, hint, ExitCode.DATABASE_UNAVAILABLE)


class _Problem(msgspec.Struct, frozen=True):
    """The fields of a problem that the client uses (problems.py)."""

    code: str
    detail: str
    hint: str


class Client:
    """A client of one service. A context manager."""

    def __init__(self, server: str, token: str | None = None) -> None:
        """`server`: its http or https URL; `token`: the one that it requires.

        Ignores proxy variables; trusts the system's certificates.
        """
        try:
            self._http = httpx.Client(
                base_url=server.strip(),
                timeout=_TIMEOUT_SECONDS,
                headers={} if token is None else {"Authorization": f"Bearer {token}"},
                trust_env=False,
                verify=ssl.create_default_context(),
            )
            # httpx lets this UnicodeError of getaddrinfo through: a label of the name is empty or too long.
            self._http.base_url.raw_host.decode().encode("idna")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise RequestFailed(
                "usage", f"The service's URL is not valid: {error}.", _SET_SERVER, ExitCode.USAGE
            ) from error
        self._server = str(self._http.base_url.copy_with(userinfo=b"")).rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, new_import: Mapping[str, object], idempotency_key: str | None) -> Import:
        """Submit an import; `new_import`: the fields of NewImport."""
        if idempotency_key is not None and not _HEADER_VALUE.fullmatch(idempotency_key):
            raise RequestFailed(
                "usage",
                f"The idempotency key {idempotency_key!a} is not valid: it is empty, begins or ends with a blank, or has"
                " characters other than printable ASCII.",
                "Choose a key of ASCII letters and digits, such as a UUID.",
                ExitCode.USAGE,
            )
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._request("POST", "/imports", Import, headers=headers, body=new_import)

    def get(self, import_id: UUID) -> Import:
        """Return an import."""
        return self._request("GET", f"/imports/{import_id}", Import)

    def all(self, states: Collection[State], label: str | None) -> Iterator[Import]:
        """Yield the imports of these states and with this label, newest first, page by page; none: all."""
        query: dict[str, str | int] = {"limit": _PAGE_LENGTH}
        if states:
            query["state"] = ",".join(states)
        if label is not None:
            query["label"] = label
        cursor: str | None = ""
        while cursor is not None:
            page = self._request("GET", "/imports", ImportPage, query={**query, "cursor": cursor})
            yield from page.imports
            cursor = page.next_cursor

    def cancel(self, import_id: UUID) -> Import:
        """Cancel an import."""
        return self._request("POST", f"/imports/{import_id}/cancel", Import)

    def retry(self, import_id: UUID, changes: Mapping[str, object]) -> Import:
        """Retry an import; `changes`: fields of RetryImport."""
        return self._request("POST", f"/imports/{import_id}/retry", Import, body=changes or None)

    def remove(self, import_id: UUID, *, drops_rows: bool) -> Import:
        """Remove an import that has ended; `drops_rows`: also one that has succeeded, with its rows."""
        query = {"rows": "drop"} if drops_rows else {}
        return self._request("DELETE", f"/imports/{import_id}", Import, query=query)

    def rejects(self, import_id: UUID, *, as_csv: bool) -> Iterator[bytes]:
        """Yield the rejects in chunks, as CSV or JSON."""
        path = f"/imports/{import_id}/rejects{'.csv' if as_csv else ''}"
        with self._stream(path, {}) as response:
            yield from response.iter_bytes()

    def watch(self, import_id: UUID) -> Iterator[Import]:
        """Yield an import now and after each change, until it has ended.

        Reconnects when the connection is lost, such as by a restart of the service. Raises Unavailable if the service is
        not available at the start, or for five minutes.
        """
        last_event_id = ""
        give_up_at: float | None = -math.inf  # None: the last connection succeeded
        while True:
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            try:
                with self._stream(f"/imports/{import_id}/events", headers) as response:
                    give_up_at = None
                    for found in self._events(response):
                        last_event_id = str(found.version)
                        yield found
                        if found.state in FINISHED:
                            return
            except Unavailable:
                now = time.monotonic()
                give_up_at = now + _RECONNECT_SECONDS if give_up_at is None else give_up_at
                if now >= give_up_at:
                    raise
            time.sleep(_RECONNECT_DELAY_SECONDS)  # Ctrl-C interrupts it

    def _events(self, response: httpx.Response) -> Iterator[Import]:
        """Yield the import of each event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
        event = b""
        for line in _lines(response.iter_bytes()):
            name, _, value = line.partition(b": ")
            if name == b"event":
                event = value
            elif name == b"data" and event == b"import":
                yield self._decode(value, Import)

    def _request(
        self,
        method: str,
        path: str,
        response_type: type[T],
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> T:
        with self._transport_errors():
            response = self._http.request(method, path, params=query, headers=headers, json=body)
        self._check(response)
        return self._decode(response.content, response_type)

    @contextmanager
    def _stream(self, path: str, headers: Mapping[str, str]) -> Generator[httpx.Response]:
        with (
            self._transport_errors(),
            self._http.stream("GET", path, headers=headers, timeout=_EVENTS_TIMEOUT_SECONDS) as response,
        ):
            if not response.is_success:
                response.read()
            self._check(response)
            yield response

    @contextmanager
    def _transport_errors(self) -> Generator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Unavailable(
                "service_unreachable",
                f"The service at {self._server} does not respond: {error or type(error).__name__}.",
                "Start it with `importer serve`, or set its URL with --server or IMPORTER_URL.",
            ) from error

    def _check(self, response: httpx.Response) -> None:
        """Raise RequestFailed unless the response is a success."""
        if response.is_success:
            return
        try:
            problem = msgspec.json.decode(response.content, type=_Problem)
        except msgspec.DecodeError as error:
            if response.status_code in _TEMPORARY:
                problem = _Problem(
                    "unavailable", f"HTTP {response.status_code} at {self._server}.", "Try again later."
                )
            else:
                raise self._unexpected_response(f"HTTP {response.status_code}") from error
        if response.status_code in _TEMPORARY:
            raise Unavailable(problem.code, problem.detail, problem.hint)
        exit_code = _EXIT_CODES.get(response.status_code, ExitCode.USAGE)
        raise RequestFailed(problem.code, problem.detail, problem.hint, exit_code)

    def _decode(self, content: bytes, response_type: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=response_type)
        except msgspec.DecodeError as error:
            raise self._unexpected_response(str(error)) from error

    def _unexpected_response(self, why: str) -> RequestFailed:
        return RequestFailed(
            "unexpected_answer",
            f"The server at {self._server} is not this service, or another version of it: {why}.",
            _SET_SERVER,
            ExitCode.DATABASE_UNAVAILABLE,
        )


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split at LF and CRLF only: JSON may contain the other line ends of str.splitlines, such as U+2028."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
