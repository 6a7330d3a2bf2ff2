"""The service's settings: one struct, read from the environment once, at start. docs/configuration.md lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeVar, get_args

import msgspec

from loader.embedded.server import default_data_folder
from loader.errors import LoaderError
from loader.http.address_policy import AddressPolicy
from loader.postgres.connection import parse_url

LogFormat = Literal["auto", "json", "console"]

_T = TypeVar("_T")

# Each slot is a process of up to 400 MB, each worker a connection: a number beyond these is a slip of the finger.
_MAX_SLOTS = 64
_MAX_WORKERS = 64
_MAX_GRACE_SECONDS = 3600
_MAX_HISTORY_DAYS = 36_500


class InvalidSettings(Exception):  # noqa: N818 - what is wrong is in its name
    """Some variables can't be used; the text has a line for each."""


class Settings(msgspec.Struct, frozen=True):
    """How the service runs. Nothing of it changes while it does."""

    data_folder: Path  # of the control DB and the embedded PostgreSQL
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    server_names: tuple[str, ...] = ()  # by which clients know it, as host_check.py needs them
    database_url: str | None = None  # None: the embedded PostgreSQL; a secret
    slots: int = 2  # imports that run at a time
    workers: int | None = None  # connections of each import; None: the loader's own choice
    allowed_hosts: tuple[str, ...] = ()  # beyond public addresses, as address_policy.py reads them
    grace_seconds: int = 30  # between SIGTERM and SIGKILL
    history_days: int = 30  # that a finished import's record is kept
    log_format: LogFormat = "auto"  # auto: console on a terminal, else json

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read all variables. An empty one is taken for one that is not set. Raises InvalidSettings, for all at once."""
        read = _Reader(environment)
        default = cls(default_data_folder(environment).absolute())
        settings = cls(
            data_folder=default.data_folder,
            host=read("IMPORTER_HOST", default.host, _host, "an IP address of this machine, such as 0.0.0.0"),
            port=read("IMPORTER_PORT", default.port, _port, "a port, such as 8000 (0: any that is free)"),
            server_names=read(
                "IMPORTER_SERVER_NAMES",
                default.server_names,
                _server_names,
                "host names with commas between, such as importer.example.org",
            ),
            database_url=read(
                "DATABASE_URL",
                default.database_url,
                _database_url,
                "a PostgreSQL URL or DSN, such as postgresql://me@db.example.org/taxi",
                is_secret=True,
            ),
            slots=read.number("IMPORTER_SLOTS", default.slots, _MAX_SLOTS),
            workers=read.number("IMPORTER_WORKERS", default.workers, _MAX_WORKERS),
            allowed_hosts=read(
                "IMPORTER_ALLOWED_HOSTS",
                default.allowed_hosts,
                _allowed_hosts,
                "names, IP addresses and networks with commas between, such as 127.0.0.1:8192,10.0.0.0/8",
            ),
            grace_seconds=read.number("IMPORTER_GRACE_SECONDS", default.grace_seconds, _MAX_GRACE_SECONDS),
            history_days=read.number("IMPORTER_HISTORY_DAYS", default.history_days, _MAX_HISTORY_DAYS),
            log_format=read("IMPORTER_LOG_FORMAT", default.log_format, _log_format, "auto, json or console"),
        )
        if read.problems:
            raise InvalidSettings("\n".join(read.problems))
        return settings


class _Reader:
    """Reads one variable after the other, and keeps what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def __call__(
        self, name: str, default: _T, parse: Callable[[str], _T], expected: str, *, is_secret: bool = False
    ) -> _T:
        """Return what a variable says. `parse` raises ValueError for what it does not understand."""
        text = self._environment.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            is_said = "can't be read" if is_secret else f"is {text!a}"
            why = f" ({error})" if str(error) else ""
            self.problems.append(f"{name} {is_said}{why}: it must be {expected}.")
            return default

    def number(self, name: str, default: _T, most: int) -> int | _T:
        """Return the number from 1 to `most` that a variable says."""
        return self(name, default, _whole(1, most), f"a number from 1 to {most}")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return parse


def _port(text: str) -> int:
    if text.startswith("tcp://"):
        raise ValueError(
            "Kubernetes says so of a Service named importer; enableServiceLinks: false prevents it"
        )
    return _whole(0, 65_535)(text)


def _host(text: str) -> str:
    if re.fullmatch(
        r"[A-Za-z0-9.-]+", text
    ):  # a name, or IPv4: the system says whether it is one of this machine
        return text
    return str(ip_address(text.removeprefix("[").removesuffix("]")))


def _server_names(text: str) -> tuple[str, ...]:
    names = tuple(name for each in text.split(",") if (name := each.strip()))
    if not all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names):
        raise ValueError
    return names


def _database_url(text: str) -> str:
    try:
        parse_url(text)
    except LoaderError as error:
        raise ValueError from error
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
