"""Health checks and metrics, for operators and their tools."""

from __future__ import annotations

from litestar import Response, get

from importer.api.metrics import MEDIA_TYPE, metrics_text
from importer.api.openapi import SERVICE, problem_responses
from importer.api.problems import ProblemCode
from importer.api.requests import FromService
from importer.api.schemas import Health


@get(
    "/health/live",
    operation_id="getLiveness",
    tags=[SERVICE],
    summary="Check that the service is live",
    description="Succeeds while the process handles requests.",
    response_description="The service is live.",
    responses=problem_responses(),
)
async def get_liveness() -> Health:
    """Handle GET /health/live."""
    return Health("live")


@get(
    "/health/ready",
    operation_id="getReadiness",
    tags=[SERVICE],
    summary="Check that the service is ready",
    description="Writes to the control DB and queries the target database.",
    response_description="The service can use both databases.",
    responses=problem_responses(ProblemCode.NOT_READY),
)
async def get_readiness(service: FromService) -> Health:
    """Handle GET /health/ready."""
    await service.readiness.require()
    return Health("ready")


@get("/metrics", include_in_schema=False)
async def get_metrics(service: FromService) -> Response[bytes]:
    """Handle GET /metrics."""
    counts = await service.store.counts()
    text = metrics_text(counts, is_database_up=service.supervisor.probe.is_up)
    return Response(text, media_type=MEDIA_TYPE)
