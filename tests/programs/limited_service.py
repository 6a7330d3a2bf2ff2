"""The service with room for few clients and with short time limits, so that a test can reach them.

LIMITED_SERVICE_LOADER: the program in tests/programs/ that is its loader. LIMITED_SERVICE_SECONDS: the time limit of a
request. LIMITED_SERVICE_DEBUG: all libraries log at level DEBUG.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

from importer.supervisor import loaders

program = os.environ.get("LIMITED_SERVICE_LOADER", "small_loader.py")
loaders.LOADER = (sys.executable, str(Path(__file__).with_name(program)))


from importer import log  # noqa: E402 - after LOADER, which other modules copy at import
from importer.api import state  # noqa: E402
from importer.server import client_connections  # noqa: E402

client_connections.MAX_CONNECTIONS = 60
client_connections.REQUEST_SECONDS = int(os.environ.get("LIMITED_SERVICE_SECONDS", "2"))
setattr(client_connections, "_RESPONSE_MILLISECONDS", 2_000)  # noqa: B010 - private, but for tests
setattr(state, "_MAX_LISTINGS", 3)  # noqa: B010

_configure_listener = client_connections.configure
_configure_log = log.configure


def configure_listener(listener: socket.socket) -> None:
    """Give the kernel a small buffer for data that a client does not read."""
    _configure_listener(listener)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)


def configure_log(log_format: log.LogFormat) -> None:
    """Log at level DEBUG, every library included."""
    _configure_log(log_format)
    for name in ("", *logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.DEBUG)


client_connections.configure = configure_listener
if "LIMITED_SERVICE_DEBUG" in os.environ:
    log.configure = configure_log

from importer.cli.main import main  # noqa: E402

main()
