"""An import's changes as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Each event is the whole import, and its id is the import's version. So a client that comes back with Last-Event-ID has
missed nothing: it gets the import as it is now, if that has changed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.params import HeaderParameter
from litestar.response import Stream

from importer.api.limits import begun
from importer.api.lookup import FromService, ImportId, find
from importer.api.openapi import IMPORTS, problem_responses
from importer.api.problems import ProblemCode
from importer.api.schemas import Import
from importer.api.state import Service
from importer.model import FINISHED
from importer.model import Import as StoredImport

# Proxies close what is silent for a minute, some for half of one.
HEARTBEAT_SECONDS = 15.0
# What a client waits before it comes back, in milliseconds.
RECONNECT_MILLISECONDS = 2_000

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep events until it has some kilobytes of them
}


@get(
    "/imports/{import_id:uuid}/events",
    operation_id="watchImport",
    tags=[IMPORTS],
    summary="Watch an import",
    description="Server-sent events. Each event `import` has the whole import as its data; the first comes at once, the"
    " stream ends when the import has ended. `removed`: it is gone. Comments in between show that the connection lives.",
    response_description="The events.",
    responses=problem_responses(ProblemCode.IMPORT_NOT_FOUND, ProblemCode.TOO_BUSY),
)
async def watch_import(
    service: FromService,
    import_id: ImportId,
    last_event_id: Annotated[
        str,
        HeaderParameter(
            name="Last-Event-ID",
            description="The id of the last event received: the stream goes on after it. Browsers send it by themselves.",
        ),
    ] = "",
) -> Stream | Response[None]:
    """Answer GET /imports/{id}/events."""
    found = await find(service, import_id)
    if found.state in FINISHED and last_event_id == str(found.version):
        return Response(None, status_code=204)  # tells an EventSource not to come back once more
    stream = await begun(_events(service, found, last_event_id))
    return Stream(stream, media_type="text/event-stream", headers=_HEADERS)


async def _events(service: Service, found: StoredImport, last_event_id: str) -> AsyncGenerator[bytes]:
    """Yield the text of the stream, until the import has ended, or is gone, or the service stops."""
    # also a client that leaves ends it
    with service.watchers.taken(), service.metrics.event_streams.track_inprogress():
        yield b"retry: %d\n\n" % RECONNECT_MILLISECONDS
        if last_event_id != str(found.version):
            yield _event(found)
        while found.state not in FINISHED:
            waiting = service.store.wait_for_change(found.id, found.version, HEARTBEAT_SECONDS)
            changed = await service.unless_closing(waiting)
            if service.closing.is_set():
                return
            if changed is None:
                yield b"event: removed\ndata: %b\n\n" % str(found.id).encode()
                return
            yield b": nothing new\n\n" if changed.version == found.version else _event(changed)
            found = changed


def _event(found: StoredImport) -> bytes:
    data = msgspec.json.encode(Import.of(found))  # on one line: JSON escapes line ends
    return b"id: %d\nevent: import\ndata: %b\n\n" % (found.version, data)
