"""The ASGI application: handlers, middleware, problems, the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from litestar import HttpMethod, Litestar, Response, Router, get, route
from litestar.di import Provide
from litestar.exceptions import ValidationException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Redirect
from litestar.types import ASGIApp

from importer.api import actions, attempts, events, health, imports, openapi, openapi_document, rejects
from importer.api.exception_handlers import invalid_parameters, problem_details
from importer.api.head_requests import HeadRequests
from importer.api.host_check import HostCheck
from importer.api.metrics import HTTP_METRICS
from importer.api.request_bodies import MAX_BODY_BYTES
from importer.api.request_checks import RequestCheck, RequestChecks
from importer.api.requests import refuse_unknown_input
from importer.api.root_path import RootPath, link
from importer.api.state import Service
from importer.api.token_check import TokenCheck


def _options(path: str, methods: str) -> HTTPRouteHandler:
    """Return the handler of OPTIONS for a path with several methods. Litestar's own lists one of them."""

    @route(
        path, http_method=HttpMethod.OPTIONS, status_code=204, include_in_schema=False, sync_to_thread=False
    )
    def get_methods() -> Response[None]:
        return Response(None, headers={"Allow": methods})

    return get_methods


_OPTIONS = [
    _options("/imports", "GET, OPTIONS, POST"),
    _options("/imports/{import_id:str}", "DELETE, GET, OPTIONS"),
]


@get("/", include_in_schema=False, sync_to_thread=False)
def get_root() -> Redirect:
    """Lead a person who opens the service's URL to its page."""
    return Redirect(link("/schema"))


# The operations of the OpenAPI document.
HANDLERS: list[HTTPRouteHandler] = [
    imports.submit_import,
    imports.list_imports,
    imports.get_import,
    attempts.list_attempts,
    attempts.get_attempt_log,
    events.watch_import,
    rejects.list_rejects,
    rejects.download_rejects,
    actions.cancel_import,
    actions.retry_import,
    actions.remove_import,
    health.get_liveness,
    health.get_readiness,
]


def create_app(
    service: Service, *, names: Iterable[str] = (), root_path: str = "", token: str | None = None
) -> ASGIApp:
    """Return the application of an open service, which the caller closes.

    `names`: the service's public names (host_check.py). `root_path`: the prefix of a proxy (root_path.py). `token`: what
    clients must send (token_check.py); None: nothing.
    """
    operations = Router("/", route_handlers=[*_OPTIONS, *HANDLERS], before_request=refuse_unknown_input)
    app = Litestar(
        [operations, get_root, health.get_metrics],
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        middleware=[HTTP_METRICS.middleware],
        exception_handlers={ValidationException: invalid_parameters},
        plugins=[problem_details()],
        openapi_config=openapi.openapi_config(
            metadata.version("large-file-importer"), root_path=root_path, requires_token=token is not None
        ),
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
    )
    openapi_document.complete(app.openapi_schema)
    checks: list[RequestCheck] = [HostCheck(names)]
    if token is not None:
        checks.append(TokenCheck(token))
    return RootPath(HeadRequests(RequestChecks(app, checks)), root_path)
