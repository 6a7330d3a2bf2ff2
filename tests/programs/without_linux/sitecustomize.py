"""Takes away what Python lacks on macOS, in each process that has this folder in PYTHONPATH.

Python imports a module of this name at its start. The names are those that the type checker reports with
`--pythonplatform Darwin`, as typeshed has them.
"""

from __future__ import annotations

import os
import select
import signal
import socket

_MISSING = {
    os: (
        "copy_file_range", "eventfd", "memfd_create", "pidfd_open", "posix_fadvise", "posix_fallocate", "sched_getaffinity",
        "sched_setaffinity", "setresuid", "splice", "waitid",
    ),
    select: ("epoll",),
    signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo"),
    socket: ("SO_BINDTODEVICE", "SO_PEERCRED", "TCP_CONGESTION", "TCP_QUICKACK", "TCP_USER_TIMEOUT"),
}  # fmt: skip

for _module, _names in _MISSING.items():
    for _name in _names:
        if hasattr(_module, _name):
            delattr(_module, _name)
