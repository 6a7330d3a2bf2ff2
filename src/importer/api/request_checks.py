"""What each request must pass before it reaches a path: the check of its Host, and that of its token."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from litestar.enums import ScopeType
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from prometheus_client import Counter

from importer.api.problems import PROBLEM_JSON, ProblemCode, RequestProblem

RequestCheck = Callable[[HTTPScope], None]  # raises RequestProblem

# The HTTP metrics have the requests that reach a path.
_REFUSED = Counter(
    "importer_refused_requests", "Requests with an unknown Host or without the token.", ["code"]
)
for _code in (ProblemCode.UNKNOWN_HOST, ProblemCode.UNAUTHORIZED):
    _REFUSED.labels(_code)


class RequestChecks:
    """ASGI middleware that answers a request with the problem that a check raises."""

    def __init__(self, app: ASGIApp, checks: Iterable[RequestCheck]) -> None:
        self._app = app
        self._checks = tuple(checks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] == ScopeType.HTTP:
            try:
                for check in self._checks:
                    check(scope)
            except RequestProblem as problem:
                _REFUSED.labels(problem.problem.code).inc()
                await _response(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _response(problem: RequestProblem) -> ASGIResponse:
    return ASGIResponse(
        body=msgspec.json.encode(problem.problem),
        status_code=problem.status_code,
        media_type=PROBLEM_JSON,
        headers=dict(problem.headers or {}),
    )
