"""The handlers of actions on an import: cancel, retry, remove."""

from __future__ import annotations

from typing import Annotated, Literal

import structlog
from litestar import Response, delete, post
from litestar.params import QueryParameter, RawBody

from importer import failpoint
from importer.api.accepted import LOCATION, RETRY_AFTER, accepted
from importer.api.openapi import IMPORTS, problem_responses
from importer.api.problems import ProblemCode, RequestProblem
from importer.api.request_bodies import read_retry
from importer.api.requests import AnyRequest, FromService, ImportId, client_of, find
from importer.api.schemas import Import
from importer.model import Import as StoredImport
from importer.model import State
from loader.http.url import parse_url

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@post(
    "/imports/{import_id:str}/cancel",
    status_code=202,
    operation_id="cancelImport",
    tags=[IMPORTS],
    summary="Cancel an import",
    description="The import is `cancelling` until its rows are removed, then `cancelled`. A repeated cancel has no further"
    " effect. If the import is published before the cancel takes effect, it has `succeeded`.",
    response_headers=[LOCATION, RETRY_AFTER],
    response_description="The import is being cancelled, or is cancelled.",
    responses=problem_responses(ProblemCode.IMPORT_NOT_FOUND, ProblemCode.WRONG_STATE),
)
async def cancel_import(request: AnyRequest, service: FromService, import_id: ImportId) -> Response[Import]:
    """Handle POST /imports/{id}/cancel."""
    cancelled = await service.supervisor.cancel(import_id)
    if cancelled is None:
        found = await find(service, import_id)
        if found.state is not State.CANCELLED:
            raise _wrong_state(found, "it can't be cancelled")
        cancelled = found
    _log.info("cancel requested", import_id=str(import_id), state=cancelled.state, **client_of(request))
    return accepted(cancelled)


@post(
    "/imports/{import_id:str}/retry",
    status_code=202,
    operation_id="retryImport",
    tags=[IMPORTS],
    summary="Retry an import",
    description="Queues an import that failed or was cancelled. An import that waits for its next attempt becomes due now."
    " The attempt resumes from what is committed. An optional body has changes, such as a new URL for one that has"
    " expired, or more rejects.",
    response_headers=[LOCATION, RETRY_AFTER],
    response_description="The import is queued.",
    responses=problem_responses(
        ProblemCode.IMPORT_NOT_FOUND, ProblemCode.WRONG_STATE, ProblemCode.INVALID_URL
    ),
)
async def retry_import(
    request: AnyRequest, body: RawBody, service: FromService, import_id: ImportId
) -> Response[Import]:
    """Handle POST /imports/{id}/retry."""
    changes = read_retry(request, body).changes()
    queued = await service.store.retry(import_id, changes)
    if queued is None:
        raise _wrong_state(await find(service, import_id), "there is no failed attempt to retry")
    failpoint.hit()
    service.supervisor.wake()
    url = parse_url(queued.job.source).location
    changed = list(changes.fields())
    _log.info("retry requested", import_id=str(import_id), url=url, changed=changed, **client_of(request))
    return accepted(queued)


@delete(
    "/imports/{import_id:str}",
    status_code=202,
    operation_id="removeImport",
    tags=[IMPORTS],
    summary="Remove an import",
    description="Removes the record of an import without rows, one that has failed or was cancelled. With `rows=drop`, also"
    " an import that has succeeded: its rows leave trips. The import is `removing`, then GET returns 404. An import that has"
    " not ended must be cancelled first.",
    response_headers=[LOCATION, RETRY_AFTER],
    response_description="The import is being removed.",
    responses=problem_responses(ProblemCode.IMPORT_NOT_FOUND, ProblemCode.WRONG_STATE, ProblemCode.HAS_ROWS),
)
async def remove_import(
    request: AnyRequest,
    service: FromService,
    import_id: ImportId,
    rows: Annotated[
        Literal["drop"] | None,
        QueryParameter(description="drop: remove the rows of an import that has succeeded from trips."),
    ] = None,
) -> Response[Import]:
    """Handle DELETE /imports/{id}."""
    removing = await service.supervisor.remove(import_id, drops_rows=rows == "drop")
    if removing is None:
        found = await find(service, import_id)
        if found.state is State.SUCCEEDED:
            detail = f"Import {import_id} is succeeded: its rows are in trips."
            raise RequestProblem(ProblemCode.HAS_ROWS, detail, state=found.state)
        raise _wrong_state(found, "it can be removed once it has ended or is cancelled")
    _log.info(
        "removal requested",
        import_id=str(import_id),
        label=removing.label,
        drops_rows=rows == "drop",
        **client_of(request),
    )
    return accepted(removing)


def _wrong_state(found: StoredImport, why: str) -> RequestProblem:
    detail = f"Import {found.id} is {found.state}: {why}."
    return RequestProblem(ProblemCode.WRONG_STATE, detail, state=found.state)
