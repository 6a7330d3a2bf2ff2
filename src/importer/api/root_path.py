"""The path prefix below which a reverse proxy serves the service, such as /importer.

A proxy may pass the prefix on or strip it: the service takes paths with and without it. Its links always have it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line uses the API's structs, and needs no litestar
    from litestar.types import ASGIApp, Receive, Scope, Send

# Links are also made where no request is at hand: in problems and events.
_root_path: ContextVar[str] = ContextVar("root_path", default="")


def link(path: str) -> str:
    """Return the path by which clients reach a path of this service."""
    return _root_path.get() + path


class RootPath:
    """ASGI middleware that removes the prefix from paths, and gives it to `link`."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        """`root_path`: begins with a slash and does not end with one, or is empty."""
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if self._root_path and scope["type"] == "http":
            _root_path.set(self._root_path)
            if f"{scope['path']}/".startswith(f"{self._root_path}/"):
                scope["path"] = scope["path"].removeprefix(self._root_path) or "/"
                scope["raw_path"] = scope["raw_path"].removeprefix(self._root_path.encode())
        await self._app(scope, receive, send)
