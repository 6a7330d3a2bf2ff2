"""The handlers of the REST API: what a request asks for, handed to the control DB and the supervisor, and answered."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlencode

import structlog
from litestar import Response, delete, get, post
from litestar.datastructures import ResponseHeader
from litestar.params import HeaderParameter, QueryParameter, RawBody

from importer import failpoint
from importer.api.lookup import AnyRequest, FromService, ImportId, find, not_found
from importer.api.openapi import IMPORTS, problem_responses
from importer.api.problems import ProblemCode, RequestProblem
from importer.api.schemas import Attempt, Import, ImportPage, PageLinks
from importer.api.submission import read_job, read_retry
from importer.model import FINISHED, State
from importer.model import Import as StoredImport
from loader.http.url import parse_address

# When to look again: a loader reports twice a second.
RETRY_AFTER_SECONDS = 1
MAX_WAIT_SECONDS = 60
LARGEST_PAGE = 200
MAX_KEY = 255

StateFilter = Literal[
    "any", "queued", "running", "cancelling", "succeeded", "failed", "cancelled", "removing"
]

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_LOCATION = ResponseHeader(
    name="Location",
    value="/imports/0190b2c4-5e2f-7b3a-9c1d-2f4e6a8b0c1d",
    description="The import.",
    documentation_only=True,
)
_RETRY_AFTER = ResponseHeader(
    name="Retry-After",
    value=str(RETRY_AFTER_SECONDS),
    description="Seconds until there may be news.",
    documentation_only=True,
)


@post(
    "/imports",
    status_code=202,
    operation_id="submitImport",
    tags=[IMPORTS],
    summary="Submit an import",
    description="Puts a file into the queue. It is looked at and loaded as soon as a slot is free.",
    response_headers=[_LOCATION, _RETRY_AFTER],
    response_description="It is in the queue, or was put there by an earlier request with this Idempotency-Key.",
    responses=problem_responses(
        ProblemCode.BODY_TOO_LARGE,
        ProblemCode.UNSUPPORTED_MEDIA_TYPE,
        ProblemCode.INVALID_URL,
        ProblemCode.IDEMPOTENCY_CONFLICT,
        ProblemCode.CONTROL_DB_FULL,
    ),
)
async def submit_import(
    request: AnyRequest,
    body: RawBody,
    service: FromService,
    idempotency_key: Annotated[
        str,
        HeaderParameter(
            name="Idempotency-Key",
            description="Any text of your choice, such as a UUID. Sent again with the same body it brings the same"
            " import, so that a request without an answer can be repeated.",
            max_length=MAX_KEY,
        ),
    ] = "",
) -> Response[Import]:
    """Answer POST /imports."""
    stored, is_new = await service.store.submit(read_job(request, body), idempotency_key or None)
    service.supervisor.wake()  # also if it is known: the request that brought it may have broken off
    if is_new:
        failpoint.hit()
        url = parse_address(stored.job.source).location
        _log.info("import submitted", import_id=str(stored.id), url=url, mode=stored.job.mode)
    return _accepted(stored)


@get(
    "/imports",
    operation_id="listImports",
    tags=[IMPORTS],
    summary="List imports",
    description="Newest first, a page at a time.",
    response_description="A page of imports.",
    responses=problem_responses(),
)
async def list_imports(
    service: FromService,
    in_state: Annotated[
        StateFilter, QueryParameter(name="state", description="Only those in this state; any: all.")
    ] = "any",
    limit: Annotated[int, QueryParameter(description="How many to a page.", ge=1, le=LARGEST_PAGE)] = 50,
    cursor: Annotated[
        str,
        QueryParameter(description="`next_cursor` of the page before.", pattern=r"^([0-9]{1,18})?(?!\n)$"),
    ] = "",
) -> ImportPage:
    """Answer GET /imports."""
    state = None if in_state == "any" else State(in_state)
    before = int(cursor) if cursor else None
    found = await service.store.page(state=state, limit=limit + 1, before_sequence=before)
    next_cursor = str(found[limit - 1].sequence) if len(found) > limit else None
    query = urlencode({"state": in_state, "limit": limit, "cursor": next_cursor})
    link = None if next_cursor is None else f"/imports?{query}"
    return ImportPage([Import.of(each) for each in found[:limit]], next_cursor, PageLinks(link))


@get(
    "/imports/{import_id:uuid}",
    operation_id="getImport",
    tags=[IMPORTS],
    summary="Get an import",
    description="Where it stands. With `wait` the answer is held until that changes: a long poll.",
    response_description="The import.",
    responses=problem_responses(ProblemCode.IMPORT_NOT_FOUND, ProblemCode.TOO_BUSY),
)
async def get_import(
    request: AnyRequest,
    service: FromService,
    import_id: ImportId,
    wait: Annotated[
        int,
        QueryParameter(
            description="Seconds to hold the answer until the import changes. One that has ended is answered at once.",
            ge=0,
            le=MAX_WAIT_SECONDS,
        ),
    ] = 0,
) -> Import:
    """Answer GET /imports/{id}."""
    found = await find(service, import_id)
    if wait and found.state not in FINISHED:
        with service.watchers.taken():
            waiting = service.store.wait_for_change(import_id, found.version, wait)
            changed = await service.unless_closing(waiting, _hung_up(request))
        if changed is None and not service.closing.is_set():
            raise not_found(import_id)  # or the client has left, and nobody reads it
        found = changed or found
    return Import.of(found)


@get(
    "/imports/{import_id:uuid}/attempts",
    operation_id="listAttempts",
    tags=[IMPORTS],
    summary="List an import's attempts",
    description="Each loader that was started for it, with how it ended and the end of its log.",
    response_description="The attempts, oldest first.",
    responses=problem_responses(ProblemCode.IMPORT_NOT_FOUND),
)
async def list_attempts(service: FromService, import_id: ImportId) -> list[Attempt]:
    """Answer GET /imports/{id}/attempts."""
    await find(service, import_id)
    return [Attempt.of(each) for each in await service.store.attempts(import_id)]


@post(
    "/imports/{import_id:uuid}/cancel",
    status_code=202,
    operation_id="cancelImport",
    tags=[IMPORTS],
    summary="Cancel an import",
    description="It is `cancelling` until all that was loaded is gone, then `cancelled`. Asked for twice is once. If the"
    " rows become visible before it takes effect, the import has succeeded.",
    response_headers=[_LOCATION, _RETRY_AFTER],
    response_description="It is being cancelled, or was cancelled.",
    responses=problem_responses(
        ProblemCode.IMPORT_NOT_FOUND, ProblemCode.WRONG_STATE, ProblemCode.CONTROL_DB_FULL
    ),
)
async def cancel_import(service: FromService, import_id: ImportId) -> Response[Import]:
    """Answer POST /imports/{id}/cancel."""
    cancelled = await service.supervisor.cancel(import_id)
    if cancelled is None:
        found = await find(service, import_id)
        if found.state is not State.CANCELLED:
            raise _wrong_state(found, "can't be cancelled any more")
        cancelled = found
    _log.info("cancel asked for", import_id=str(import_id), state=cancelled.state)
    return _accepted(cancelled)


@post(
    "/imports/{import_id:uuid}/retry",
    status_code=202,
    operation_id="retryImport",
    tags=[IMPORTS],
    summary="Try an import again",
    description="Puts an import that failed or was cancelled back into the queue, and lets one that waits after a failed"
    " attempt wait no longer. It goes on from what is committed. A body says what is to change, such as a URL that has"
    " expired; without one everything stays as it is.",
    response_headers=[_LOCATION, _RETRY_AFTER],
    response_description="It is in the queue.",
    responses=problem_responses(
        ProblemCode.IMPORT_NOT_FOUND,
        ProblemCode.WRONG_STATE,
        ProblemCode.BODY_TOO_LARGE,
        ProblemCode.UNSUPPORTED_MEDIA_TYPE,
        ProblemCode.INVALID_URL,
        ProblemCode.CONTROL_DB_FULL,
    ),
)
async def retry_import(
    request: AnyRequest, body: RawBody, service: FromService, import_id: ImportId
) -> Response[Import]:
    """Answer POST /imports/{id}/retry."""
    changes = read_retry(request, body)
    queued = await service.store.retry(import_id, changes.url)
    if queued is None:
        raise _wrong_state(await find(service, import_id), "can't be tried again: it has not failed")
    failpoint.hit()
    service.supervisor.wake()
    url = parse_address(queued.job.source).location
    _log.info("retry asked for", import_id=str(import_id), url=url, is_new_url=changes.url is not None)
    return _accepted(queued)


@delete(
    "/imports/{import_id:uuid}",
    status_code=202,
    operation_id="removeImport",
    tags=[IMPORTS],
    summary="Remove an import",
    description="Takes the import's rows out of trips, then forgets it: it is `removing`, then there is no such import."
    " One that has not ended must be cancelled first.",
    response_headers=[_LOCATION, _RETRY_AFTER],
    response_description="It is being removed.",
    responses=problem_responses(
        ProblemCode.IMPORT_NOT_FOUND, ProblemCode.WRONG_STATE, ProblemCode.CONTROL_DB_FULL
    ),
)
async def remove_import(service: FromService, import_id: ImportId) -> Response[Import]:
    """Answer DELETE /imports/{id}."""
    removing = await service.supervisor.remove(import_id)
    if removing is None:
        found = await find(service, import_id)
        raise _wrong_state(found, "can't be removed before it has ended: cancel it first")
    _log.info("removal asked for", import_id=str(import_id))
    return _accepted(removing)


async def _hung_up(request: AnyRequest) -> None:
    """Return when the client has left. To be asked where nobody reads the request's body: what is left of it is lost.

    https://asgi.readthedocs.io/en/latest/specs/www.html#disconnect-receive-event
    """
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _wrong_state(found: StoredImport, why: str) -> RequestProblem:
    detail = f"Import {found.id} is {found.state}: it {why}."
    return RequestProblem(ProblemCode.WRONG_STATE, detail, state=found.state)


def _accepted(stored: StoredImport) -> Response[Import]:
    headers = {"Location": f"/imports/{stored.id}", "Retry-After": str(RETRY_AFTER_SECONDS)}
    return Response(Import.of(stored), status_code=202, headers=headers)
