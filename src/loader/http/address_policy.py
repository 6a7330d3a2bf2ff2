"""Which IP addresses a source may have if others than the operator choose it: public ones, and what the operator allows.

connection.py checks the addresses to which it is about to connect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import msgspec

from loader.contract import FailureCode
from loader.errors import LoaderError

# From IANA's registries of special-purpose addresses (RFC 6890), of multicast and of IPv6 space, and from the manuals of
# cloud providers. For several of these, `ipaddress.is_global` of Python 3.11 is true.
_FORBIDDEN = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host: Linux connects to itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; some clouds' metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation, and used within many sandboxes
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        # global unicast is 2000::/3; outside of it: unspecified, loopback, each embedding of IPv4 that is not below
        # (compatible, mapped, translated, NAT64), unique local, link-local, site-local, multicast
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # protocol assignments; Teredo, which embeds IPv4
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which embeds IPv4
        "3fff::/20",  # documentation
    )
)

_ENTRY = re.compile(r"(?:\[(?P<bracketed>[^]]+)\]|(?P<bare>[^][:]+))(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*(?P<last>[a-z0-9_-]+)")
# Some resolvers treat a name whose last label is a number as an IPv4 address: 127.1, 0x7f.1.
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")


class _Allowed(msgspec.Struct, frozen=True):
    """One entry of `allowed_hosts`."""

    host: str | IPv4Network | IPv6Network  # a name in its comparable form, or addresses
    port: int | None  # None: any


class AddressPolicy:
    """Allows public addresses, and those in `allowed_hosts`.

    An entry is a name (all addresses that it resolves to are allowed), an IP address or a CIDR, each with or without a port:
    `files.example.org`, `10.0.0.0/8`, `127.0.0.1:8192`, `fd00::/8`, `[::1]:8080`. Raises LoaderError (USAGE) for
    any other entry.
    """

    def __init__(self, allowed_hosts: Iterable[str]) -> None:
        self._allowed = [_parse(text) for text in allowed_hosts]

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Raise SOURCE_REFUSED unless all addresses of a name are allowed.

        `host` is as in HttpUrl, `addresses` are in their standard notation. The error is the same for all refusals, so that
        it does not reveal what a name resolves to inside the operator's network.
        """
        if not all(self._permits(host, port, address) for address in addresses):
            raise LoaderError(
                FailureCode.SOURCE_REFUSED,
                "The URL, or one that it redirects to, is not public.",
                "Use a public URL, or have the operator allow its host (IMPORTER_ALLOWED_HOSTS).",
            )

    def _permits(self, host: str, port: int, text: str) -> bool:
        address = ip_address(text)
        if not any(address in network for network in _FORBIDDEN):
            return True
        return any(
            _comparable(host) == each.host if isinstance(each.host, str) else address in each.host
            for each in self._allowed
            if each.port in (None, port)
        )


def _parse(text: str) -> _Allowed:
    match = _ENTRY.fullmatch(text)
    if match is None:  # an IPv6 address without brackets has no port
        return _Allowed(_network(text, text), None)
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 0 < port < 65536:
        raise _invalid(text)
    if match["bracketed"] is not None:
        return _Allowed(_network(match["bracketed"], text), port)
    name = _NAME.fullmatch(_comparable(match["bare"]))
    if name is None or _NUMBER.fullmatch(name["last"]):
        return _Allowed(_network(match["bare"], text), port)
    return _Allowed(name[0], port)


def _network(text: str, entry: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        raise _invalid(entry) from None


def _comparable(host: str) -> str:
    """Return a name in lower case and without the root's dot, so that its spellings are equal."""
    return host.lower().removesuffix(".")


def _invalid(entry: str) -> LoaderError:
    return LoaderError(
        FailureCode.USAGE,
        f"{entry!a} is not a valid allowed host.",
        "Use a name (in ASCII: xn--…), an IP address or a network such as 10.0.0.0/8, optionally with :port.",
    )
