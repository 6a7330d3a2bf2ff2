"""What operators and their machines ask: is the service alive, is it ready, how is it doing."""

from __future__ import annotations

from litestar import Response, get

from importer.api.lookup import FromService
from importer.api.metrics import Metrics
from importer.api.openapi import SERVICE, problem_responses
from importer.api.problems import ProblemCode
from importer.api.schemas import Health


@get(
    "/health/live",
    operation_id="getLiveness",
    tags=[SERVICE],
    summary="Is the service alive?",
    description="Answers as long as the process does.",
    response_description="It is.",
    responses=problem_responses(),
)
async def get_liveness() -> Health:
    """Answer GET /health/live."""
    return Health("live")


@get(
    "/health/ready",
    operation_id="getReadiness",
    tags=[SERVICE],
    summary="Can the service do its work?",
    description="Writes to the control DB, and asks the target database.",
    response_description="It can.",
    responses=problem_responses(ProblemCode.NOT_READY),
)
async def get_readiness(service: FromService) -> Health:
    """Answer GET /health/ready."""
    await service.readiness.require()
    return Health("ready")


@get("/metrics", include_in_schema=False)
async def get_metrics(service: FromService) -> Response[bytes]:
    """Answer GET /metrics."""
    counts = await service.store.counts()
    text = service.metrics.text(counts, is_database_up=service.supervisor.probe.is_up)
    return Response(text, media_type=Metrics.CONTENT_TYPE)
