"""The service's log on stderr: one line an event, its own and those of the libraries, as JSON or for a terminal.

Two promises hold for whatever comes in: no line can be forged, as control characters are escaped; and an address
loses its credentials and query.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping

import structlog
from structlog.typing import Processor

from importer.settings import LogFormat
from loader.text import printable

# scheme://credentials@host/path?query#fragment, also within a longer text
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_QUERY = re.compile(r"(?<=://)([^\s?#\"'<>]*)[?#][^\s\"'<>]*")

# Libraries that tell at INFO what is of interest to their authors.
_QUIET_LOGGERS = ("httpx", "asyncio", "uvicorn")


def configure(log_format: LogFormat) -> None:
    """Send all logging to stderr in this format; auto: JSON when stderr is not a terminal."""
    is_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.format_exc_info,  # a plain traceback: values of variables are not shown
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
        last.append(structlog.processors.JSONRenderer())
    else:
        last += [_without_control_characters, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_secrets(
    _logger: object, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redacted(value)
    return event


def redacted(text: str) -> str:
    """Take credentials, query and fragment out of each address in a text."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", text))


def _without_control_characters(
    _logger: object, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Escape them, so that a text is on one line and moves no cursor; the lines of a traceback are indented."""
    for key, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if key == "exception" else [value]
            event[key] = "\n    ".join(map(printable, lines))
    return event
