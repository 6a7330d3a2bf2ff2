"""The database's URL: parsed, and its faults named. No value of it is ever quoted."""

from __future__ import annotations

import re
from urllib.parse import unquote

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from loader.contract import FailureCode
from loader.errors import LoaderError

_SCHEME = re.compile(r"((?:jdbc:)?[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SCHEMES = ("postgresql", "postgres")
# Longer ones, or with other characters, are no parameters but pieces of something that was not escaped.
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_MAX_PORT = 65_535
_FORM = (
    "Write it as postgresql://user:password@host:port/database, and escape special characters: %40 for @, %2F for /,"
    " %3A for :, %25 for %, %3F for ?, %23 for #."
)


def parse_url(url: str) -> dict[str, str]:
    """Return the text parameters of a libpq URL or DSN (libpq-connect, "Connection Strings").

    Raises USAGE. The message names a scheme or a parameter that libpq does not know, and quotes nothing else: libpq quotes
    what it can't parse, which is often a password with an unescaped character. Such a character also turns a piece of the
    password into a host or a port.
    """
    try:
        given = {name: value for name, value in conninfo_to_dict(url).items() if isinstance(value, str)}
    except psycopg.Error:
        raise _fault_of(url) from None
    hosts, ports = given.get("host", ""), given.get("port", "")
    if (
        "@" in hosts[1:]
        or not all(map(_is_port, ports.split(",")))
        or not all(map(_is_host, hosts.split(",")))
    ):
        raise _invalid("The database's URL is not valid.", _FORM)
    return given


def place_of(url: str) -> tuple[str, str, str]:
    """Return host, port and name of a URL's database, as far as they are known without a connection. Raises USAGE.

    The host may be several. Those of a service file are not known. Without a name libpq takes the user's, which is not
    shown.
    """
    defaults = {option.keyword.decode(): option.val for option in pq.Conninfo.get_defaults()}
    given = {name: value.decode() for name, value in defaults.items() if value} | parse_url(url)
    name = given.get("dbname", "the default database")
    if "service" in given and "host" not in given:
        return f"service {given['service']}", "", name
    return given.get("host", "localhost"), given.get("port", ""), name


def _fault_of(url: str) -> LoaderError:
    """Return the error for a URL that libpq can't parse."""
    if len(url) > 1 and url[0] == url[-1] and url[0] in "'\"":
        return _invalid(
            "The database's URL is in quotes.", "Remove the quotes; Docker's --env-file keeps them."
        )
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1] not in _SCHEMES:
        is_postgres = "postgres" in scheme[1].lower()
        return _invalid(
            f"The database's URL begins with {scheme[0]}, which is another program's form.",
            f"Begin it with postgresql:// instead of {scheme[0]}." if is_postgres else _FORM,
        )
    if unknown := _unknown_parameters(url):
        return _invalid(
            f"The database's URL has parameters that libpq does not know: {', '.join(unknown)}.",
            "Remove them: they are for another program.",
        )
    return _invalid("The database's URL is not valid.", _FORM)


def _unknown_parameters(url: str) -> list[str]:
    """Return the names of a URL's parameters that libpq does not know, in order.

    With an @ behind it the question mark is not where the parameters begin: it is part of a password.
    """
    _, _, query = url.partition("?")
    if "@" in query:
        return []
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    given = [parameter.partition("=") for parameter in query.split("&") if parameter != "ssl=true"]
    names = [unquote(name) for name, equals, _ in given if equals]
    return [name for name in names if name not in known and _PARAMETER.fullmatch(name)]


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal() and 0 < int(text[:6]) <= _MAX_PORT)


def _is_host(text: str) -> bool:
    """Whether a host can be looked up; Python encodes a name by IDNA. Paths of sockets are not looked up."""
    try:
        return text.startswith(("/", "@")) or bool(text.encode("idna") or not text)
    except UnicodeError:
        return False


def _invalid(message: str, hint: str) -> LoaderError:
    return LoaderError(FailureCode.USAGE, message, hint)
