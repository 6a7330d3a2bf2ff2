"""The ASGI application: the handlers, their errors as problems, the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from litestar import HttpMethod, Litestar, Response, Router, route
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import DefineMiddleware

from importer.api import docs, events, health, imports, openapi, rejects
from importer.api.exception_handlers import answer
from importer.api.host_check import RequestHost
from importer.api.lookup import refuse_unknown_parameters
from importer.api.state import Service

# A request says where a file is: the longest URL and a bit.
MAX_BODY_BYTES = 64 * 1024


def _allow(path: str, methods: str) -> HTTPRouteHandler:
    """Return what answers OPTIONS on a path of several methods, of which Litestar's own would tell one."""

    @route(
        path, http_method=HttpMethod.OPTIONS, status_code=204, include_in_schema=False, sync_to_thread=False
    )
    def get_methods() -> Response[None]:
        return Response(None, headers={"Allow": methods})

    return get_methods


_ALLOWED = [
    _allow("/imports", "GET, OPTIONS, POST"),
    _allow("/imports/{import_id:uuid}", "DELETE, GET, OPTIONS"),
]
# The operations of the OpenAPI document.
HANDLERS: list[HTTPRouteHandler] = [
    imports.submit_import,
    imports.list_imports,
    imports.get_import,
    imports.list_attempts,
    events.watch_import,
    rejects.list_rejects,
    imports.cancel_import,
    imports.retry_import,
    imports.remove_import,
    health.get_liveness,
    health.get_readiness,
]


def create_app(service: Service, names: Iterable[str]) -> Litestar:
    """Return the application of a service that is open, and is closed by whoever opened it.

    `names`: by which clients may ask for it, beyond those that request_host lets pass.
    """
    dependencies = {"service": Provide(lambda: service, sync_to_thread=False)}
    document = openapi.openapi_document(HANDLERS, dependencies, metadata.version("large-file-importer"))
    operations = Router("/", route_handlers=[*_ALLOWED, *HANDLERS], before_request=refuse_unknown_parameters)
    return Litestar(
        [operations, health.get_metrics, docs.schema_router(document)],
        dependencies=dependencies,
        middleware=[DefineMiddleware(RequestHost, names=names)],
        exception_handlers={Exception: answer},
        openapi_config=None,
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
    )
