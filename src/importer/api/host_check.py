"""Protection against DNS rebinding: a request is refused if its Host is a name that anyone may register.

An attacker's page can let its own domain name resolve to 127.0.0.1 or to an address in its reader's network. The browser
then takes this service for the page's own server, and lets its scripts call the API. It sends the page's domain as Host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from litestar.types import HTTPScope

from importer.api.problems import ProblemCode, RequestProblem

# No domain can be registered below these: RFC 6761, RFC 6762, ICANN's resolution 2024.07.29.06, and that of Kubernetes.
_PRIVATE_SUFFIXES = ("localhost", "local", "internal", "svc")

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")  # with underscores, as Docker Compose has them
_PORT = re.compile(r":[0-9]*$")


class HostCheck:
    """The check of the Host header."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names`: the service's public names, such as importer.example.org, or *.example.org for each below it."""
        self._names = frozenset(name.lower() for name in names)

    def __call__(self, scope: HTTPScope) -> None:
        """Raise RequestProblem, UNKNOWN_HOST, if the Host is not known to be this service."""
        for name, value in scope["headers"]:
            if name == b"host" and not is_known_host(host := value.decode("latin-1"), self._names):
                raise RequestProblem(ProblemCode.UNKNOWN_HOST, f"The Host is {host[:100]!a}.")


def is_known_host(host: str, names: frozenset[str]) -> bool:
    """Whether a Host is empty, an IP address, one of `names`, below one with *, or a name that can't be registered."""
    name = _PORT.sub("", host.lower()).removesuffix(".")
    if name in names or not host:  # HTTP/1.0 may omit it; a browser does not
        return True
    if _NAME.fullmatch(name):
        labels = name.split(".")
        if len(labels) == 1 or labels[-1] in _PRIVATE_SUFFIXES:
            return True
        if any(f"*.{'.'.join(labels[start:])}" in names for start in range(1, len(labels))):
            return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
