"""The service's log: one line per event, without forged lines and without secrets."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from importer.log import redacted

HOSTILE = "http://user:canary@example.org/a?canary\n2026-01-01 [info] forged \x1b[2K\r\u2028forged"

# The service's logger and a library's, with a hostile text in each place that can have one.
PROGRAM = """
import datetime, logging, sys, uuid
import structlog
from importer import log
log.configure(sys.argv[1])
ours, theirs = structlog.get_logger(), logging.getLogger("library")
ours.info("event", import_id="1", url=sys.argv[2])
theirs.warning("library says %s", sys.argv[2])
try:
    raise ValueError(sys.argv[2])
except ValueError as error:
    ours.error("failed", exc_info=error)
    theirs.exception("failed")
theirs.info(sys.argv[2])
moment = datetime.datetime(2024, 1, 31, 23, 59, 59, tzinfo=datetime.UTC)
ours.info("values", not_before=moment, among=[moment], key=uuid.UUID(int=7), none=None, count=3)
"""


def logged(log_format: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format, HOSTILE], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("log_format", ["json", "auto"])
def test_without_a_terminal_each_event_is_one_line_of_json(log_format: str) -> None:
    events = [json.loads(line) for line in logged(log_format).splitlines()]
    assert [event["level"] for event in events] == ["info", "warning", "error", "error", "info", "info"]
    assert events[0]["event"] == "event"
    assert events[0]["import_id"] == "1"
    assert events[0]["timestamp"].endswith("Z")
    assert "Traceback" in events[2]["exception"]


def test_a_value_is_logged_as_text_and_a_time_in_iso_8601() -> None:
    event = json.loads(logged("json").splitlines()[-1])
    assert event["not_before"] == "2024-01-31T23:59:59Z"
    assert event["among"] == ["2024-01-31T23:59:59Z"]
    assert event["key"] == "00000000-0000-0000-0000-000000000007"
    assert (event["none"], event["count"]) == (None, 3)
    assert "not_before=2024-01-31T23:59:59Z" in logged("console")


def test_on_a_terminal_no_text_begins_a_line_or_moves_the_cursor() -> None:
    text = logged("console")
    assert not {"\x1b", "\r", "\u2028"} & set(text)
    assert not [line for line in text.split("\n") if line.startswith(("2026-01-01", "forged"))]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_url_is_logged_without_credentials_and_query(log_format: str) -> None:
    text = logged(log_format)
    assert "http://example.org/a" in text
    assert "canary" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@db:5432/taxi?sslmode=require", "postgresql://db:5432/taxi"),
        ("see https://a.example/b?c=d#e, and http://f@g/", "see https://a.example/b and http://g/"),
        ("user@example.org asked: why?", "user@example.org asked: why?"),
    ],
)
def test_the_secrets_in_a_url_are_removed(text: str, shown: str) -> None:
    assert redacted(text) == shown
