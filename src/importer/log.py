"""The service's log on stderr: one line per event, its own and the libraries', as JSON or for a terminal.

Control characters are escaped, so that no text can forge a line. Credentials and query are removed from URLs.
"""

from __future__ import annotations

import datetime
import logging
import re
import sys
from collections.abc import MutableMapping

import structlog
from structlog.typing import Processor

from importer.settings import LogFormat
from loader.text import printable

# scheme://credentials@host/path?query#fragment, also inside a longer text
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_QUERY = re.compile(r"(?<=://)([^\s?#\"'<>]*)[?#][^\s\"'<>]*")

# Libraries whose INFO is for their own developers.
_QUIET_LOGGERS = ("httpx", "asyncio", "uvicorn")


def configure(log_format: LogFormat) -> None:
    """Write all logging to stderr in this format; auto: JSON if stderr is no terminal."""
    is_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.format_exc_info,  # a plain traceback, without the values of variables
        _plain_values,
        _without_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if is_json:
        last.append(structlog.processors.JSONRenderer(default=_plain))  # for what is within lists
    else:
        last += [_without_control_characters, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # At DEBUG it logs each statement with its parameters: URLs, and the values of bad rows.
    logging.getLogger("aiosqlite").disabled = True


def _plain_values(
    _logger: object, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    for key, value in event.items():
        if not isinstance(value, str | int | float | list | dict | None):
            event[key] = _plain(value)
    return event


def _plain(value: object) -> str:
    """Return a value as text: a time in ISO 8601, and not as Python code."""
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def _without_secrets(
    _logger: object, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redacted(value)
    return event


def redacted(text: str) -> str:
    """Remove credentials, query and fragment from each URL in a text."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", text))


def _without_control_characters(
    _logger: object, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Escape control characters, so that a text is one line and moves no cursor. Indent the lines of a traceback."""
    for key, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if key == "exception" else [value]
            event[key] = "\n    ".join(map(printable, lines))
    return event
