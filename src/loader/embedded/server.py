"""The embedded PostgreSQL: the first process that uses it starts it, the last one stops it.

Three lock files in the data folder record the processes (flock(2): the kernel releases a lock when its process ends,
however it ends):

- users: shared by all processes that use the server; exclusive while it is stopped, so that new users wait.
- server: inherited by every process of the server, including initdb, and so held while one of them lives. A process id is
  trusted only while this lock is held: after a crash or a reboot it may belong to another process.
- guardian: held by a detached process, the guardian. It tries to take the users' lock, and so notices that all users were
  killed.

The last user stops the server and waits for its end, so no process is left. While the server has users, the guardian
restarts it if it dies, and restores the short path to its socket if a cleaner of temporary files removes it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from loader.embedded.cluster import (
    DETACHED,
    PORT,
    failure,
    has_socket_folder,
    reachable_socket_folder,
    read_pid_file,
    remove_socket_folder,
    restore_socket_folder,
    run_logged,
    start_server,
)
from loader.embedded.user import OURS
from loader.errors import LoaderError

USERS_LOCK = "postgres-users.lock"
SERVER_LOCK = "postgres-server.lock"
GUARDIAN_LOCK = "postgres-guardian.lock"

# Starting and stopping take tenths of a second, a check takes microseconds.
POLL_INTERVAL_SECONDS = 0.02
# A server that is ready but unreachable for longer runs in another container, which has its socket.
UNREACHABLE_SECONDS = 10.0
# The guardian notices this late that the server or its last user was killed.
GUARDIAN_INTERVAL_SECONDS = 0.5
# The guardian's pause after a restart, so that a server that dies at once does not fill the log.
RESTART_INTERVAL_SECONDS = 5.0


def default_data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the data folder of the embedded server: IMPORTER_DATA_DIR, else the user's data folder (XDG)."""
    if given := environment.get("IMPORTER_DATA_DIR"):
        return Path(given)
    if data_home := environment.get("XDG_DATA_HOME"):
        return Path(data_home) / "large-file-importer"
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and a user id without an account: an error only if the folder is used
        home = Path("/")
    return home / ".local" / "share" / "large-file-importer"


@contextmanager
def embedded_server(data_folder: Path) -> Generator[str]:
    """Use the embedded PostgreSQL 18 of a folder: yield the URL of its database `postgres`.

    The first user creates and starts it, in about a second; after a crash, recovery may take longer. A process that is
    killed while it starts or uses the server leaves nothing to clean up. Removes libpq's variables from the environment of
    the process. Raises EMBEDDED_DATABASE.
    """
    folder = data_folder.absolute()
    try:
        users, socket_folder = _enter(folder)
    except OSError as error:
        hint = "Choose another folder (IMPORTER_DATA_DIR, --data-dir), or set DATABASE_URL to another PostgreSQL."
        raise failure(folder, f"can't be used: {error}", hint) from error
    _remove_libpq_variables()
    try:
        yield f"postgresql://postgres@/postgres?host={quote(str(socket_folder), safe='')}&port={PORT}"
    finally:
        _leave(folder, users)


def _remove_libpq_variables() -> None:
    """Remove PGHOST, PGOPTIONS, PGSERVICE and the like from the environment: they are meant for another server.

    A URL does not override all of them. https://www.postgresql.org/docs/current/libpq-envars.html
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def _enter(folder: Path) -> tuple[int, Path]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = _open_lock(folder / USERS_LOCK)
    try:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits while another process stops the server
        _start_guardian(folder)
        return users, _start_or_join(folder)
    except BaseException:
        os.close(users)  # if the server has started, the guardian stops it
        raise


def _leave(folder: Path, users: int) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _stop(folder)
    except BlockingIOError:
        # At once if there are other users; else waits for the one that stops the server.
        fcntl.flock(users, fcntl.LOCK_SH)
    finally:
        os.close(users)


def _start_or_join(folder: Path) -> Path:
    """Return the folder of the server's socket, once it accepts connections."""
    started = False
    ready_since: float | None = None
    while True:
        server_lock = _try_lock(folder / SERVER_LOCK)
        if server_lock is not None:  # no process of a server lives, and no other process starts one
            try:
                if started:
                    raise failure(folder, "stopped during its start")
                start_server(folder, server_lock)
            finally:
                os.close(server_lock)  # the server has inherited it
            started = True
        _, ready = read_pid_file(folder)
        if not ready:  # it may recover from a crash for minutes
            ready_since = None
        elif socket_folder := reachable_socket_folder(folder):
            return socket_folder
        else:
            restore_socket_folder(folder)
            ready_since = ready_since or time.monotonic()
            if time.monotonic() - ready_since > UNREACHABLE_SECONDS:
                raise failure(
                    folder, "runs but can't be reached, perhaps because it runs in another container"
                )
        time.sleep(POLL_INTERVAL_SECONDS)  # another process starts the server: there is no event to wait for


def _stop(folder: Path) -> None:
    """Stop the server, if there is one, and wait for its end. The caller holds the users' lock exclusively."""
    signalled: int | None = None
    while (server_lock := _try_lock(folder / SERVER_LOCK)) is None:
        process_id, _ = read_pid_file(folder)
        if process_id is not None and process_id != signalled:
            try:
                os.kill(process_id, signal.SIGINT)  # a fast shutdown
            except (ProcessLookupError, PermissionError):
                return  # it was killed; its children end, and the next start waits for them
            signalled = process_id
        time.sleep(
            POLL_INTERVAL_SECONDS
        )  # a blocking wait for the lock would miss a server that is restarted
    remove_socket_folder(folder)
    os.close(server_lock)


def _start_guardian(folder: Path) -> None:
    guardian_lock = _try_lock(folder / GUARDIAN_LOCK)
    if guardian_lock is not None:
        # -P: its working directory, /, is not on sys.path
        command = [
            *DETACHED,
            sys.executable,
            "-P",
            "-m",
            "loader.embedded.server",
            str(folder),
            str(guardian_lock),
        ]
        run_logged(folder, command, guardian_lock, OURS, os.environ)
        os.close(guardian_lock)


def _guard(folder: Path, guardian_lock: int) -> None:
    """Be the guardian: keep the server running while it has users, then stop it unless the last user has."""
    while (users := _try_lock(folder / USERS_LOCK)) is None:
        # Two events at once, the end of the server and that of the last user, and neither can be waited for.
        time.sleep(RESTART_INTERVAL_SECONDS if _restart_if_dead(folder) else GUARDIAN_INTERVAL_SECONDS)
    _stop(folder)
    os.close(guardian_lock)  # first, so that a user that waits for the other lock starts a new guardian
    os.close(users)


def _restart_if_dead(folder: Path) -> bool:
    """Restart a server that has died, and return whether that was tried; restore the path to its socket."""
    if (is_alive := _seems_alive(folder)) and has_socket_folder(folder):
        return False
    users = _open_lock(folder / USERS_LOCK)
    try:
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)  # fails while another process stops it
        if is_alive:
            restore_socket_folder(folder)
            return False
        server_lock = _try_lock(folder / SERVER_LOCK)
        if server_lock is None:  # it is starting, or some of its children still run
            return False
        try:
            start_server(folder, server_lock)
        finally:
            os.close(server_lock)
    except BlockingIOError:
        return False
    except (LoaderError, OSError) as error:
        sys.stderr.write(f"{error}\n")  # to the log, whose last lines the next user's error has
    finally:
        os.close(users)
    return True


def _seems_alive(folder: Path) -> bool:
    """Return whether a process has the server's id. A check by the lock would get in the way of other processes."""
    process_id, _ = read_pid_file(folder)
    try:
        if process_id is not None:
            os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process_id is not None


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(path: Path) -> int | None:
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


if __name__ == "__main__":
    _guard(Path(sys.argv[1]), int(sys.argv[2]))
