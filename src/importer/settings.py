"""The service's settings: one struct, read from environment variables at start. docs/configuration.md lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeVar, get_args

import msgspec

from loader.contract import MAX_READ_TIMEOUT_SECONDS
from loader.embedded.server import default_data_folder
from loader.errors import LoaderError
from loader.http.address_policy import AddressPolicy
from loader.postgres.database_url import parse_url

LogFormat = Literal["auto", "json", "console"]

_T = TypeVar("_T")

# A slot is a process of up to 400 MB, a worker a database connection: a larger number is a typing error.
_MAX_SLOTS = 64
MAX_WORKERS = 64
_MAX_GRACE_SECONDS = 3600
_MAX_HISTORY_DAYS = 36_500
# The first parts of the API's paths.
_API_FOLDERS = ("health", "imports", "metrics", "schema")


class InvalidSettings(Exception):
    """Some variables have invalid values; the text has a line for each."""


class Settings(msgspec.Struct, frozen=True):
    """How the service runs. Settings are fixed at start."""

    data_folder: Path  # of the control DB and the embedded PostgreSQL
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free port
    server_names: tuple[str, ...] = ()  # public names of the service, see host_check.py
    root_path: str = ""  # path prefix of a reverse proxy, see root_path.py
    token_file: Path | None = None  # has the token that clients must send; None: they need none
    database_url: str | None = None  # None: the embedded PostgreSQL; may hold a password
    slots: int = 2  # imports that run in parallel
    workers: int | None = None  # database connections of an import; None: the loader's default
    allowed_hosts: tuple[str, ...] = ()  # beyond public addresses, see address_policy.py
    # how long a source's server may send no byte, also before the first one; None: the loader's default
    read_timeout_seconds: int | None = None
    grace_seconds: int = 30  # between SIGTERM and SIGKILL of a loader
    history_days: int = 30  # how long the record of a finished import is kept
    log_format: LogFormat = "auto"  # auto: console on a terminal, else json

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read all variables; an empty one counts as not set. Raises InvalidSettings, which lists all faults."""
        read = _Reader(environment)
        default = cls(default_data_folder(environment).absolute())
        settings = cls(
            data_folder=default.data_folder,
            host=read("IMPORTER_HOST", default.host, _host, "an IP address of this machine, such as 0.0.0.0"),
            port=read(
                "IMPORTER_PORT",
                default.port,
                _port,
                "a port from 0 to 65535, such as 8000 (0: any free port)",
            ),
            server_names=read(
                "IMPORTER_SERVER_NAMES",
                default.server_names,
                _server_names,
                "a comma-separated list of host names, such as importer.example.org or *.example.org",
            ),
            root_path=read(
                "IMPORTER_ROOT_PATH",
                default.root_path,
                _root_path,
                "a path such as /importer, not one of the API",
            ),
            token_file=read("IMPORTER_TOKEN_FILE", default.token_file, Path, "the path of a file"),
            database_url=read(
                "DATABASE_URL",
                default.database_url,
                _database_url,
                "a PostgreSQL URL or DSN, such as postgresql://me@db.example.org/taxi",
                is_secret=True,
            ),
            slots=read.number("IMPORTER_SLOTS", default.slots, _MAX_SLOTS),
            workers=read.number("IMPORTER_WORKERS", default.workers, MAX_WORKERS),
            allowed_hosts=read(
                "IMPORTER_ALLOWED_HOSTS",
                default.allowed_hosts,
                _allowed_hosts,
                "a comma-separated list of names, IP addresses and networks, such as 127.0.0.1:8192,10.0.0.0/8",
            ),
            read_timeout_seconds=read.number(
                "IMPORTER_READ_TIMEOUT_SECONDS", default.read_timeout_seconds, MAX_READ_TIMEOUT_SECONDS
            ),
            grace_seconds=read.number("IMPORTER_GRACE_SECONDS", default.grace_seconds, _MAX_GRACE_SECONDS),
            history_days=read.number("IMPORTER_HISTORY_DAYS", default.history_days, _MAX_HISTORY_DAYS),
            log_format=read("IMPORTER_LOG_FORMAT", default.log_format, _log_format, "auto, json or console"),
        )
        if read.faults:
            raise InvalidSettings("\n".join(read.faults))
        return settings


class _Reader:
    """Reads variables one by one and collects their faults."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.faults: list[str] = []

    def __call__(
        self, name: str, default: _T, parse: Callable[[str], _T], expected: str, *, is_secret: bool = False
    ) -> _T:
        """Return the value of a variable. `parse` raises ValueError for an invalid text, with a reason or without."""
        text = self._environment.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            found = "can't be read" if is_secret else f"is {text!a}"
            reason = f" ({error})" if str(error) else ""
            self.faults.append(f"{name} {found}{reason}: it must be {expected}.")
            return default

    def number(self, name: str, default: _T, maximum: int) -> int | _T:
        """Return the value of a variable that is a whole number from 1 to `maximum`."""
        parse = partial(_integer, minimum=1, maximum=maximum)
        return self(name, default, parse, f"a whole number from 1 to {maximum}")


def _integer(text: str, minimum: int, maximum: int) -> int:
    if not re.fullmatch(r"[0-9]+", text):  # int() also takes signs, underscores and digits of other scripts
        raise ValueError
    number = int(text)
    if not minimum <= number <= maximum:
        raise ValueError
    return number


def _port(text: str) -> int:
    if text.startswith("tcp://"):
        raise ValueError(
            "Kubernetes sets it for a Service named importer; enableServiceLinks: false prevents this"
        )
    return _integer(text, 0, 65_535)


def _host(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9.-]+", text):  # a name or IPv4: listening shows whether it is this machine's
        return text
    return str(ip_address(text.removeprefix("[").removesuffix("]")))


def _server_names(text: str) -> tuple[str, ...]:
    names = tuple(name for each in text.split(",") if (name := each.strip()))
    if not all(re.fullmatch(r"(\*\.)?[A-Za-z0-9_.-]+", name) for name in names):
        raise ValueError
    return names


def _root_path(text: str) -> str:
    path = text.rstrip("/")
    # A proxy may strip the prefix: that of a path of the API would be stripped twice.
    is_valid = re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9_~.-]*)*", path)
    if not is_valid or path.partition("/")[2].partition("/")[0] in _API_FOLDERS:
        raise ValueError
    return path


def _database_url(text: str) -> str:
    try:
        parse_url(text)
    except LoaderError as error:
        raise ValueError(error.failure.message.rstrip(".")) from error
    return text


def _allowed_hosts(text: str) -> tuple[str, ...]:
    entries = tuple(entry for each in text.split(",") if (entry := each.strip()))
    try:
        AddressPolicy(entries)
    except LoaderError as error:
        raise ValueError(error.failure.message.rstrip(".")) from error
    return entries


def _log_format(text: str) -> LogFormat:
    for known in get_args(LogFormat):
        if text == known:
            return known
    raise ValueError
