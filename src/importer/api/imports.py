"""The handlers of /imports that submit, list and get imports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, cast

import structlog
from litestar import Response, get, post
from litestar.datastructures import ResponseHeader
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter, RawBody

from importer import failpoint
from importer.api import cursor as cursors
from importer.api.accepted import LOCATION, RETRY_AFTER, accepted
from importer.api.openapi import IMPORTS, problem_responses
from importer.api.problems import FieldError, ProblemCode, invalid_fields
from importer.api.request_bodies import MAX_LABEL_CHARACTERS, read_new_import
from importer.api.requests import (
    AnyRequest,
    FromService,
    ImportId,
    PageCursor,
    PageLength,
    client_of,
    find,
    not_found,
)
from importer.api.schemas import Import, ImportPage
from importer.model import FINISHED, State
from importer.model import Import as StoredImport
from loader.http.url import parse_url

_MAX_WAIT_SECONDS = 60
_MAX_KEY_CHARACTERS = 255

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_ETAG = ResponseHeader(
    name="ETag",
    value='"57"',
    description="The import's version.",
    documentation_only=True,
)
_REPLAYED = ResponseHeader(
    name="Idempotent-Replayed",
    value="true",
    description="Sent if an earlier request with this Idempotency-Key has submitted the import.",
    documentation_only=True,
)


@post(
    "/imports",
    status_code=202,
    operation_id="submitImport",
    tags=[IMPORTS],
    summary="Submit an import",
    description="Queues an import. It starts when a slot is free.",
    response_headers=[LOCATION, RETRY_AFTER, _REPLAYED],
    response_description="The import is queued, now or by an earlier request with this Idempotency-Key.",
    responses=problem_responses(ProblemCode.INVALID_URL, ProblemCode.IDEMPOTENCY_CONFLICT),
)
async def submit_import(
    request: AnyRequest,
    body: RawBody,
    service: FromService,
    idempotency_key: Annotated[
        str,
        HeaderParameter(
            name="Idempotency-Key",
            description="A text of your choice, such as a UUID. A request with the same key and body returns the same"
            " import, so a client can repeat a request whose response was lost.",
            max_length=_MAX_KEY_CHARACTERS,
        ),
    ] = "",
) -> Response[Import]:
    """Handle POST /imports."""
    requested = read_new_import(request, body)
    stored, is_new = await service.store.submit(requested.job(), idempotency_key or None, requested.label)
    service.supervisor.wake()  # also for a known import: the first request may have been cancelled before this line
    if is_new:
        failpoint.hit()
        url = parse_url(stored.job.source).location
        _log.info(
            "import submitted",
            import_id=str(stored.id),
            label=stored.label,
            url=url,
            mode=stored.job.mode,
            **client_of(request),
        )
    return accepted(stored, {} if is_new else {"Idempotent-Replayed": "true"})


@get(
    "/imports",
    operation_id="listImports",
    tags=[IMPORTS],
    summary="List imports",
    description="Returns the imports, newest first, page by page.",
    response_description="A page of imports.",
    responses=problem_responses(),
)
async def list_imports(
    service: FromService,
    in_states: Annotated[
        list[str] | None,
        QueryParameter(name="state", description="Only imports in these states, separated by commas."),
    ] = None,
    label: Annotated[
        str,
        QueryParameter(description="Only imports with this label.", max_length=MAX_LABEL_CHARACTERS),
    ] = "",
    limit: PageLength = 50,
    cursor: PageCursor = "",
) -> ImportPage:
    """Handle GET /imports."""
    found = await service.store.page(
        limit=limit + 1,
        states=_states(in_states or []),
        label=label or None,
        before_sequence=cursors.decode(cursor),
    )
    next_cursor = cursors.encode(found[limit - 1].sequence) if len(found) > limit else None
    return ImportPage([Import.of(each) for each in found[:limit]], next_cursor)


@get(
    "/imports/{import_id:str}",
    operation_id="getImport",
    tags=[IMPORTS],
    summary="Get an import",
    description="Returns the import. With `wait`: a long poll, which returns when the import changes. To miss no change,"
    " send the version that you have: as `after`, or as If-None-Match.",
    response_headers=[_ETAG],
    response_description="The import.",
    responses={
        304: ResponseSpec(None, description="The import still has a version of If-None-Match."),
        **problem_responses(ProblemCode.IMPORT_NOT_FOUND, ProblemCode.TOO_BUSY),
    },
)
async def get_import(
    request: AnyRequest,
    service: FromService,
    import_id: ImportId,
    wait: Annotated[
        int,
        QueryParameter(
            description="Seconds to wait for a change of the import. An import that has ended is returned at once.",
            ge=0,
            le=_MAX_WAIT_SECONDS,
        ),
    ] = 0,
    after: Annotated[
        int | None,
        QueryParameter(
            description="With `wait`: the version that you have. Another one is returned at once. Without it, or"
            " If-None-Match, the wait is for a change after this request, and an earlier one is missed.",
        ),
    ] = None,
    if_none_match: Annotated[
        str,
        HeaderParameter(
            name="If-None-Match",
            description="The ETag that you have: if the import still has it, after the wait, the response is 304.",
        ),
    ] = "",
) -> Response[Import]:
    """Handle GET /imports/{id}."""
    found = await find(service, import_id)
    is_known = not if_none_match or _is_among(if_none_match, found)
    if wait and is_known and found.state not in FINISHED:
        version = found.version if after is None else after
        with service.watchers.acquire():
            waiting = service.store.wait_for_change(import_id, version, wait)
            changed = await service.unless_closing(waiting, _disconnected(request))
        if changed is None and not service.closing.is_set():
            raise not_found(import_id)  # or the client has disconnected: no one receives this
        found = changed or found
    headers = {"ETag": _etag(found)}
    if if_none_match and _is_among(if_none_match, found):
        # The document has this response from `responses`; a union would become the schema of the other one.
        return cast("Response[Import]", Response(None, status_code=304, headers=headers))
    return Response(Import.of(found), headers=headers)


def _states(values: Iterable[str]) -> set[State]:
    """Return the states of ?state=queued,running, or ?state=queued&state=running. Raises INVALID_REQUEST."""
    names = [name for value in values for name in value.split(",") if name]
    unknown = [name for name in names if name not in set(State)]
    if unknown:
        message = f"Expected some of {', '.join(State)}, separated by commas; got {unknown[0][:100]!a}"
        raise invalid_fields([FieldError("state", message)])
    return {State(name) for name in names}


def _etag(found: StoredImport) -> str:
    return f'"{found.version}"'


def _is_among(etags: str, found: StoredImport) -> bool:
    """Return whether If-None-Match names the import's version (https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2)."""
    return etags.strip() == "*" or _etag(found) in [
        each.strip().removeprefix("W/") for each in etags.split(",")
    ]


async def _disconnected(request: AnyRequest) -> None:
    """Return when the client has disconnected. Discards the unread rest of the request's body.

    https://asgi.readthedocs.io/en/latest/specs/www.html#disconnect-receive-event
    """
    while (await request.receive())["type"] != "http.disconnect":
        pass
