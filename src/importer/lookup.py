"""What most handlers begin with: the request, the service, and the import that a path names."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import PathParameter, SkipValidation

from importer.imports import Import
from importer.problems import ProblemCode, RequestProblem
from importer.service import Service

AnyRequest = Request[object, object, State]
FromService = NamedDependency[SkipValidation[Service]]
ImportId = Annotated[UUID, PathParameter(description="The import's id.")]


async def find(service: Service, import_id: UUID) -> Import:
    """Return an import; raises IMPORT_NOT_FOUND."""
    found = await service.store.get(import_id)
    if found is None:
        raise not_found(import_id)
    return found


def not_found(import_id: UUID) -> RequestProblem:
    """Return the problem of an id that is not, or no longer, an import's."""
    return RequestProblem(ProblemCode.IMPORT_NOT_FOUND, f"There is no import {import_id}.")
