"""The REST API as its command-line client uses it: requests, answers as structs, problems as one exception."""

from __future__ import annotations

import math
import re
import ssl
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
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

# Nothing but submitting, cancelling and the like is asked for, which takes milliseconds; a stopped machine is noticed.
_TIMEOUT_SECONDS = 30.0
# An event stream says something every 15 s, if only that it lives (events.py).
_EVENTS_TIMEOUT_SECONDS = 45.0
# A service that restarts is back after seconds; with the embedded server in recovery, minutes.
_RECONNECT_SECONDS = 300.0
_RECONNECT_DELAY_SECONDS = 1.0
_PAGE = 200

# What every part on the way takes alike: https://www.rfc-editor.org/rfc/rfc9110.html#section-5.5
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")

# What passes: the service's own 503, and those of a proxy before it while it restarts.
_PASSING = frozenset({502, 503, 504})
_EXIT_CODES = {500: ExitCode.INTERNAL, 507: ExitCode.OUT_OF_SPACE}


_WHERE = "Say where the service is with --server or IMPORTER_URL."


class RequestFailed(Exception):  # noqa: N818 - named as what happened
    """A request had no answer, or one that says no: what happened, what to do next, what to exit with."""

    def __init__(self, code: str, message: str, hint: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class Unavailable(RequestFailed):
    """There was no answer, or one that says: not now."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(code, message, hint, ExitCode.DATABASE_UNAVAILABLE)


class _Problem(msgspec.Struct, frozen=True):
    """What is used of a problem (problems.py)."""

    code: str
    detail: str
    hint: str


class Client:
    """A connection to one service. A context manager."""

    def __init__(self, server: str) -> None:
        """`server`: its http or https URL. Proxy variables are not used; certificates are the system's."""
        try:
            self._http = httpx.Client(
                base_url=server,
                timeout=_TIMEOUT_SECONDS,
                trust_env=False,
                verify=ssl.create_default_context(),
            )
            # getaddrinfo has nothing but this error for a name with a label that is empty or too long.
            self._http.base_url.raw_host.decode().encode("idna")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise RequestFailed(
                "usage", f"The service's URL can't be used: {error}.", _WHERE, ExitCode.USAGE
            ) from error
        self._server = str(self._http.base_url.copy_with(userinfo=b"")).rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, new_import: Mapping[str, object], idempotency_key: str | None) -> Import:
        """Submit an import: the fields of NewImport."""
        if idempotency_key is not None and not _HEADER_VALUE.fullmatch(idempotency_key):
            raise RequestFailed(
                "usage",
                f"The idempotency key {idempotency_key!a} can't be sent: it is empty, has blanks at an end, or other"
                " characters than those of ASCII.",
                "Choose a key of letters, digits and signs of ASCII, such as a UUID.",
                ExitCode.USAGE,
            )
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._ask("POST", "/imports", Import, headers=headers, body=new_import)

    def get(self, import_id: UUID) -> Import:
        """Return an import as it is now."""
        return self._ask("GET", f"/imports/{import_id}", Import)

    def all(self, state: State | None) -> Iterator[Import]:
        """Yield the imports, newest first, page by page."""
        query: dict[str, str | int] = {"limit": _PAGE, **({} if state is None else {"state": state.value})}
        cursor: str | None = ""
        while cursor is not None:
            page = self._ask("GET", "/imports", ImportPage, query={**query, "cursor": cursor})
            yield from page.imports
            cursor = page.next_cursor

    def cancel(self, import_id: UUID) -> Import:
        """Ask for an import to end without rows."""
        return self._ask("POST", f"/imports/{import_id}/cancel", Import)

    def retry(self, import_id: UUID, changes: Mapping[str, object]) -> Import:
        """Put an import back into the queue, with these fields of RetryImport changed."""
        return self._ask("POST", f"/imports/{import_id}/retry", Import, body=changes or None)

    def remove(self, import_id: UUID) -> Import:
        """Ask for an import that has ended to go, its rows included."""
        return self._ask("DELETE", f"/imports/{import_id}", Import)

    def rejects(self, import_id: UUID, media_type: str) -> Iterator[bytes]:
        """Yield the rejects, as text/csv or application/json, without holding them all in memory."""
        with self._stream(f"/imports/{import_id}/rejects", {"Accept": media_type}) as answer:
            yield from answer.iter_bytes()

    def watch(self, import_id: UUID) -> Iterator[Import]:
        """Yield an import as it is, and after each change, until it has ended.

        A lost connection is opened again, so that a restart of the service is survived. Raises Unavailable when the
        service is away from the beginning or for too long.
        """
        last_event_id = ""
        give_up_at: float | None = -math.inf  # None: the service was there when last asked
        while True:
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            try:
                with self._stream(f"/imports/{import_id}/events", headers) as answer:
                    give_up_at = None
                    for event_id, found in self._events(answer):
                        last_event_id = event_id
                        yield found
                        if found.state in FINISHED:
                            return
            except Unavailable:
                now = time.monotonic()
                give_up_at = now + _RECONNECT_SECONDS if give_up_at is None else give_up_at
                if now >= give_up_at:
                    raise
            time.sleep(_RECONNECT_DELAY_SECONDS)  # a service that is starting is not asked without pause

    def _events(self, answer: httpx.Response) -> Iterator[tuple[str, Import]]:
        """Yield each event's id and import (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
        event_id, event = "", b""
        for line in _lines(answer.iter_bytes()):
            name, _, value = line.partition(b": ")
            if name == b"id":
                event_id = value.decode()
            elif name == b"event":
                event = value
            elif name == b"data" and event == b"import":
                yield event_id, self._decode(value, Import)

    def _ask(
        self,
        method: str,
        path: str,
        answer_type: type[T],
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> T:
        with self._explained():
            answer = self._http.request(method, path, params=query, headers=headers, json=body)
        self._check(answer)
        return self._decode(answer.content, answer_type)

    @contextmanager
    def _stream(self, path: str, headers: Mapping[str, str]) -> Generator[httpx.Response]:
        with (
            self._explained(),
            self._http.stream("GET", path, headers=headers, timeout=_EVENTS_TIMEOUT_SECONDS) as answer,
        ):
            if not answer.is_success:
                answer.read()
            self._check(answer)
            yield answer

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Unavailable(
                "service_unreachable",
                f"The service at {self._server} does not answer: {error or type(error).__name__}.",
                "Start it with `importer serve`, or say where it is with --server or IMPORTER_URL.",
            ) from error

    def _check(self, answer: httpx.Response) -> None:
        """Raise RequestFailed for any answer but success."""
        if answer.is_success:
            return
        try:
            problem = msgspec.json.decode(answer.content, type=_Problem)
        except msgspec.DecodeError as error:
            if answer.status_code in _PASSING:
                problem = _Problem(
                    "unavailable", f"HTTP {answer.status_code} at {self._server}.", "Try again later."
                )
            else:
                raise self._stranger(f"HTTP {answer.status_code}") from error
        if answer.status_code in _PASSING:
            raise Unavailable(problem.code, problem.detail, problem.hint)
        exit_code = _EXIT_CODES.get(answer.status_code, ExitCode.USAGE)
        raise RequestFailed(problem.code, problem.detail, problem.hint, exit_code)

    def _decode(self, content: bytes, answer_type: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=answer_type)
        except msgspec.DecodeError as error:
            raise self._stranger(str(error)) from error

    def _stranger(self, why: str) -> RequestFailed:
        return RequestFailed(
            "unexpected_answer",
            f"What answers at {self._server} is not this service, or another version of it: {why}.",
            _WHERE,
            ExitCode.DATABASE_UNAVAILABLE,
        )


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split at line feeds, and not at all that str.splitlines takes for line ends: JSON may have such characters."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
