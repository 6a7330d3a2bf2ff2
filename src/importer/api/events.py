"""The changes of an import as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Each event is the whole import; its id is the version of the import. A client that reconnects with Last-Event-ID gets the
current import if its version differs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from importer.api import metrics
from importer.api.limits import prefetch_first_chunk
from importer.api.openapi import IMPORTS, problem_responses
from importer.api.problems import ProblemCode
from importer.api.requests import FromService, ImportId, find
from importer.api.schemas import Import
from importer.api.state import Service
from importer.model import FINISHED
from importer.model import Import as StoredImport

# Proxies close a silent connection after a minute, some after 30 seconds.
HEARTBEAT_SECONDS = 15.0
# How long a client waits before it reconnects.
RECONNECT_MILLISECONDS = 2_000


@get(
    "/imports/{import_id:str}/events",
    operation_id="watchImport",
    tags=[IMPORTS],
    summary="Watch an import",
    description="Server-sent events. An event `import` has the whole import as its data. The first one comes at once; the"
    " stream ends when the import has ended. An event `removed`: the import no longer exists. Comments keep the connection"
    " alive.",
    response_description="The events.",
    responses={
        204: ResponseSpec(None, description="The import has ended, and Last-Event-ID is its last event."),
        **problem_responses(ProblemCode.IMPORT_NOT_FOUND, ProblemCode.TOO_BUSY),
    },
)
async def watch_import(
    service: FromService,
    import_id: ImportId,
    last_event_id: Annotated[
        str,
        HeaderParameter(
            name="Last-Event-ID",
            description="The id of the last event that the client received: the stream continues after it. Browsers send"
            " it when they reconnect.",
        ),
    ] = "",
) -> ServerSentEvent | Response[None]:
    """Handle GET /imports/{id}/events."""
    found = await find(service, import_id)
    if found.state in FINISHED and last_event_id == str(found.version):
        return Response(None, status_code=204)  # an EventSource does not reconnect then
    events = await prefetch_first_chunk(_events(service, found, last_event_id))
    return ServerSentEvent(events, headers={"Cache-Control": "no-store"})


async def _events(
    service: Service, found: StoredImport, last_event_id: str
) -> AsyncGenerator[ServerSentEventMessage]:
    """Yield the events until the import has ended or is removed, the client disconnects, or the service stops."""
    with service.watchers.acquire(), metrics.EVENT_STREAMS.track_inprogress():
        yield ServerSentEventMessage(data=None, retry=RECONNECT_MILLISECONDS)
        if last_event_id != str(found.version):
            yield _event(found)
        while found.state not in FINISHED:
            waiting = service.store.wait_for_change(found.id, found.version, HEARTBEAT_SECONDS)
            changed = await service.unless_closing(waiting)
            if service.closing.is_set():
                return
            if changed is None:
                yield ServerSentEventMessage(event="removed", data=str(found.id))
                return
            if changed.version == found.version:
                yield ServerSentEventMessage(data=None, comment="no change")
            else:
                yield _event(changed)
            found = changed


def _event(found: StoredImport) -> ServerSentEventMessage:
    return ServerSentEventMessage(
        event="import", id=found.version, data=msgspec.json.encode(Import.of(found))
    )
