"""Which requests are meant for this service: those whose Host is a name that nobody else can give to its address.

A page on the web may have its own name resolve to 127.0.0.1, or to a machine of the network that its reader is in. To
the browser this service is then that page's own server, which its scripts may ask anything (DNS rebinding). What gives
them away is Host: the browser sends the page's name there, which is one that anybody may register.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from importer.api.problems import ProblemCode, RequestProblem

# Nobody can register a name below these: RFC 6761, RFC 6762, ICANN's resolution 2024.07.29.06, and Kubernetes' own.
_PRIVATE_SUFFIXES = ("localhost", "local", "internal", "svc")

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")  # with underscores, as Docker Compose has them
_PORT = re.compile(r":[0-9]*$")


class RequestHost:
    """ASGI middleware that refuses, with UNKNOWN_HOST, what was meant for somebody else."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        """`names`: those of the service that could be anybody's, such as importer.example.org."""
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or raise."""
        if scope["type"] == ScopeType.HTTP:
            for name, value in scope["headers"]:
                if name == b"host" and not is_meant(host := value.decode("latin-1"), self._names):
                    raise RequestProblem(ProblemCode.UNKNOWN_HOST, f"The Host is {host[:100]!a}.")
        await self._app(scope, receive, send)


def is_meant(host: str, names: frozenset[str]) -> bool:
    """Whether a Host can only mean this service: none, an address, a name of its own, or one that is nobody's on the web."""
    name = _PORT.sub("", host.lower()).removesuffix(".")
    if name in names or not host:  # HTTP/1.0 may leave it out, a browser does not
        return True
    if _NAME.fullmatch(name) and ("." not in name or name.rpartition(".")[2] in _PRIVATE_SUFFIXES):
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
