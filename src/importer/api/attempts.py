"""The attempts at an import, page by page, and the log of each."""

from __future__ import annotations

from litestar import MediaType, Response, get

from importer.api import cursor as cursors
from importer.api.openapi import IMPORTS, problem_responses
from importer.api.problems import ProblemCode, RequestProblem
from importer.api.requests import AttemptNumber, FromService, ImportId, PageCursor, PageLength, find
from importer.api.schemas import Attempt, AttemptPage


@get(
    "/imports/{import_id:str}/attempts",
    operation_id="listAttempts",
    tags=[IMPORTS],
    summary="List an import's attempts",
    description="Returns the attempts, oldest first, page by page, with exit codes and errors.",
    response_description="A page of attempts.",
    responses=problem_responses(ProblemCode.IMPORT_NOT_FOUND),
)
async def list_attempts(
    service: FromService, import_id: ImportId, limit: PageLength = 50, cursor: PageCursor = ""
) -> AttemptPage:
    """Handle GET /imports/{id}/attempts."""
    after = cursors.decode(cursor) or 0
    await find(service, import_id)
    found = await service.store.attempts(import_id, limit=limit + 1, after_number=after)
    next_cursor = cursors.encode(found[limit - 1].number) if len(found) > limit else None
    return AttemptPage([Attempt.of(import_id, each) for each in found[:limit]], next_cursor)


@get(
    "/imports/{import_id:str}/attempts/{number:str}/log",
    media_type=MediaType.TEXT,
    operation_id="getAttemptLog",
    tags=[IMPORTS],
    summary="Get an attempt's log",
    description="Returns the end of the log of the attempt's loader, at most 64 KiB; nothing while it runs.",
    response_description="The log.",
    responses=problem_responses(ProblemCode.IMPORT_NOT_FOUND, ProblemCode.ATTEMPT_NOT_FOUND),
)
async def get_attempt_log(service: FromService, import_id: ImportId, number: AttemptNumber) -> Response[str]:
    """Handle GET /imports/{id}/attempts/{number}/log."""
    found = await find(service, import_id)
    log = await service.store.attempt_log(import_id, number)
    if log is None:
        detail = f"Import {import_id} has no attempt {number}: it has had {found.attempt_count}."
        raise RequestProblem(ProblemCode.ATTEMPT_NOT_FOUND, detail)
    return Response(log, media_type=MediaType.TEXT)
