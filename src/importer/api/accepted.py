"""The response to an accepted action: 202, the import, where it is, and when to look again."""

from __future__ import annotations

from collections.abc import Mapping

from litestar import Response
from litestar.datastructures import ResponseHeader

from importer.api.root_path import link
from importer.api.schemas import Import
from importer.model import Import as StoredImport

_RETRY_AFTER_SECONDS = 1  # a loader reports twice a second

LOCATION = ResponseHeader(
    name="Location",
    value="/imports/0190b2c4-5e2f-7b3a-9c1d-2f4e6a8b0c1d",
    description="The import.",
    documentation_only=True,
)
RETRY_AFTER = ResponseHeader(
    name="Retry-After",
    value=str(_RETRY_AFTER_SECONDS),
    description="Seconds to wait before the next GET of the import.",
    documentation_only=True,
)


def accepted(stored: StoredImport, more_headers: Mapping[str, str] | None = None) -> Response[Import]:
    """Return the response with an import as it is after the action."""
    headers = {
        "Location": link(f"/imports/{stored.id}"),
        "Retry-After": str(_RETRY_AFTER_SECONDS),
        **(more_headers or {}),
    }
    return Response(Import.of(stored), status_code=202, headers=headers)
