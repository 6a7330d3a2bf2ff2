"""http and https URLs: parsed, encoded for the wire, shown without their secrets."""

from __future__ import annotations

import base64
import string
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import msgspec

DEFAULT_PORTS = {"http": 80, "https": 443}
# RFC 3986's reserved characters and the percent sign stay as given: a URL is not encoded twice.
_UNQUOTED = "%/:?#[]@!$&'()*+,;=~"

_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_REMOVED = dict.fromkeys(map(ord, "\t\r\n"))


class InvalidUrl(ValueError):
    """Not a URL that can be requested. The text says why, and repeats nothing of the URL."""


class HttpUrl(msgspec.Struct, frozen=True):
    """One parsed URL. `target` and `authorization` are secrets: they contain signatures, keys and passwords."""

    scheme: str
    host: str  # ASCII, lower case; IPv6 without brackets
    port: int
    path: str
    target: str  # path and query, as sent
    authorization: str | None  # the value of the Authorization header, for this origin only

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host, port."""
        return self.scheme, self.host, self.port

    @property
    def location(self) -> str:
        """The URL as it may be shown and stored."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def __repr__(self) -> str:
        return f"HttpUrl({self.location!r})"

    def follow(self, reference: str) -> HttpUrl:
        """Resolve a Location header against this URL, as browsers do. Raises InvalidUrl.

        Credentials stay with their origin; https never becomes http.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        base = f"{self.scheme}://{host}:{self.port}{self.target}"
        try:
            url = parse_url(urljoin(base, _encoded_reference(reference)))
        except InvalidUrl:
            raise
        except ValueError:
            raise InvalidUrl("it can't be parsed") from None
        if self.scheme == "https" and url.scheme == "http":
            raise InvalidUrl("it redirects from https to http")
        if url.authorization is None and url.origin == self.origin:
            return msgspec.structs.replace(url, authorization=self.authorization)
        return url


def parse_url(text: str) -> HttpUrl:
    """Parse an absolute URL. Raises InvalidUrl."""
    # urlsplit silently removes line ends and tabs, and browsers treat a backslash as a slash: a URL must mean the same
    # to all of them
    if any(not character.isprintable() or character in " \\" for character in text):
        raise InvalidUrl("it contains a space, a backslash or a control character; write them as %20 or %5C")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidUrl("its host or port is invalid") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise InvalidUrl("it is neither http nor https")
    path = quote(parts.path, safe=_UNQUOTED) or "/"
    query = "?" + quote(parts.query, safe=_UNQUOTED) if parts.query else ""
    return HttpUrl(
        scheme=parts.scheme,
        host=_ascii_host(parts.hostname or ""),
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=path,
        target=path + query,
        authorization=_authorization(parts),
    )


def _encoded_reference(header: str) -> str:
    """Return a Location header with its raw characters encoded, as browsers do (https://url.spec.whatwg.org/#url-parsing).

    Spaces at its ends, tabs and line ends are removed; a backslash before the query is a slash; spaces and control
    characters are percent-encoded. http.client reads headers as Latin-1; they are UTF-8 in practice, and other bytes are
    percent-encoded, too.
    """
    raw = header.strip(_C0_AND_SPACE).translate(_REMOVED).encode("latin-1")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = quote(raw, safe=string.printable)
    path, mark, query = text.partition("?")
    return "".join(
        each if each.isprintable() and each not in " \\" else quote(each)
        for each in path.replace("\\", "/") + mark + query
    )


def _ascii_host(host: str) -> str:
    """Return a name as it is resolved: by UTS 46 without its transitional mappings (ß stays ß), as browsers do."""
    try:
        if not host.isascii():
            import idna  # its tables take milliseconds to load, and few names need them

            labels = idna.uts46_remap(host).split(".")
            host = ".".join(
                each if each.isascii() else "xn--" + each.encode("punycode").decode() for each in labels
            )
        ascii_host = host.encode("idna").decode("ascii")  # checks the labels' lengths
    except UnicodeError:  # idna raises a subclass
        raise InvalidUrl("its host is no valid name") from None
    if not ascii_host or "%" in ascii_host:  # %: an IPv6 zone has a meaning on one machine only
        raise InvalidUrl("it has no valid host")
    return ascii_host


def _authorization(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(credentials.encode()).decode()
