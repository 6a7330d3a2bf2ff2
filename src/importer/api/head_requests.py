"""HEAD for each path that has GET (RFC 9110, 9.3.2): the head of the response to GET, without its body."""

from __future__ import annotations

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """ASGI middleware that handles HEAD as GET, and lists HEAD in `Allow`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, with_head(value.decode()).encode() if name.lower() == b"allow" else value)
                    for name, value in message["headers"]
                ]
                await send(message)
                if is_head:  # the end of the response: the server then disconnects, which ends a stream
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif not is_head:
                await send(message)

        # A copy: the server must still know that the request was HEAD.
        await self._app({**scope, "method": "GET"} if is_head else scope, receive, send_head)


def with_head(methods: str) -> str:
    """Return the value of `Allow` with HEAD, if it has GET."""
    listed = methods.split(", ")
    return ", ".join(sorted({*listed, "HEAD"})) if "GET" in listed else methods
