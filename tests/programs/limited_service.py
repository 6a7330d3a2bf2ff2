"""The service with less patience and less room, so that a test can use them up; on demand it logs all that libraries say.

NARROW_SERVICE_LOADER: the program in tests/ that it takes for a loader. NARROW_SERVICE_SECONDS: how long a request may take.
NARROW_SERVICE_DEBUG: log at level DEBUG.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

from importer.supervisor import loaders

program = os.environ.get("NARROW_SERVICE_LOADER", "small_loader.py")
loaders.LOADER = (sys.executable, str(Path(__file__).with_name(program)))

from importer import log  # noqa: E402 - after the command that they take over
from importer.api import state  # noqa: E402
from importer.server import client_connections  # noqa: E402

# Private to the modules on purpose.
client_connections.MAX_CONNECTIONS = 60
client_connections.REQUEST_SECONDS = int(os.environ.get("NARROW_SERVICE_SECONDS", "2"))
setattr(client_connections, "_RESPONSE_MILLISECONDS", 2_000)  # noqa: B010
setattr(state, "_MAX_LISTINGS", 3)  # noqa: B010

_configure_listener = client_connections.configure
_configure_log = log.configure


def configure_listener(listener: socket.socket) -> None:
    """Have the kernel keep little of what a client does not read."""
    _configure_listener(listener)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)


def configure_log(log_format: log.LogFormat) -> None:
    """Have every library tell all that it can."""
    _configure_log(log_format)
    for name in ("", *logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.DEBUG)


client_connections.configure = configure_listener
if "NARROW_SERVICE_DEBUG" in os.environ:
    log.configure = configure_log

from importer.cli.main import main  # noqa: E402

main()
