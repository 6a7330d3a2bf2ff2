"""An http or https address: taken apart, made fit for the wire, shown without its secrets."""

from __future__ import annotations

import base64
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import msgspec

DEFAULT_PORTS = {"http": 80, "https": 443}
# RFC 3986's reserved characters and the percent sign stay as given: an address is not encoded twice.
_UNQUOTED = "%/:?#[]@!$&'()*+,;=~"


class InvalidAddress(ValueError):
    """Not an address that could be asked. The text says why, and repeats nothing of it."""


class HttpAddress(msgspec.Struct, frozen=True):
    """One parsed address. `target` and `authorization` are secrets: signatures, keys and passwords live there."""

    scheme: str
    host: str  # ASCII, lower case; IPv6 without brackets
    port: int
    path: str
    target: str  # path and query, as sent
    authorization: str | None  # the value of the Authorization header, for this origin only

    @property
    def origin(self) -> tuple[str, str, int]:
        """Who is asked: scheme, host, port."""
        return self.scheme, self.host, self.port

    @property
    def location(self) -> str:
        """The address as it may be shown and stored."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def __repr__(self) -> str:
        return f"HttpAddress({self.location!r})"

    def follow(self, reference: str) -> HttpAddress:
        """Resolve a Location header against this address. Raises InvalidAddress.

        Credentials stay with their origin; https never becomes http.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        base = f"{self.scheme}://{host}:{self.port}{self.target}"
        try:
            # http.client reads headers as Latin-1; what is not ASCII in them is UTF-8 in practice
            address = parse_address(urljoin(base, reference.encode("latin-1").decode("utf-8")))
        except InvalidAddress:
            raise
        except ValueError:
            raise InvalidAddress("it can't be read") from None
        if self.scheme == "https" and address.scheme == "http":
            raise InvalidAddress("it leads from https to http")
        if address.authorization is None and address.origin == self.origin:
            return msgspec.structs.replace(address, authorization=self.authorization)
        return address


def parse_address(text: str) -> HttpAddress:
    """Take an absolute address apart. Raises InvalidAddress."""
    # urlsplit quietly removes line ends and tabs, and browsers take a backslash for a slash: an address must
    # mean the same to everyone who looks at it
    if any(not character.isprintable() or character in " \\" for character in text):
        raise InvalidAddress(
            "it contains a space, a backslash or a control character; write them as %20 or %5C"
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidAddress("its host or port can't be read") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise InvalidAddress("it is neither http nor https")
    path = quote(parts.path, safe=_UNQUOTED) or "/"
    query = "?" + quote(parts.query, safe=_UNQUOTED) if parts.query else ""
    return HttpAddress(
        scheme=parts.scheme,
        host=_ascii_host(parts.hostname or ""),
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=path,
        target=path + query,
        authorization=_authorization(parts),
    )


def _ascii_host(host: str) -> str:
    """Return a name as it is resolved: as browsers do, by UTS 46 without its transitional mappings (ß stays ß)."""
    try:
        if not host.isascii():
            import idna  # its tables take milliseconds, and few names need them

            labels = idna.uts46_remap(host).split(".")
            host = ".".join(
                each if each.isascii() else "xn--" + each.encode("punycode").decode() for each in labels
            )
        ascii_host = host.encode("idna").decode("ascii")  # of ASCII it checks the labels' lengths
    except UnicodeError:  # idna's error is one
        raise InvalidAddress("its host is not a valid name") from None
    if not ascii_host or "%" in ascii_host:  # %: an IPv6 zone means something on one machine only
        raise InvalidAddress("it has no valid host")
    return ascii_host


def _authorization(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(credentials.encode()).decode()
