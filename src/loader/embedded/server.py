"""The PostgreSQL that works with nothing installed: started for its first user, stopped by its last.

Three lock files in the data folder say who is there (flock(2): the kernel lets go of them when a process ends,
however it ends):

- users: shared by all who use the server; exclusive for whoever stops it, so that newcomers wait meanwhile.
- server: inherited by every process of the server, initdb included, and so held as long as one of them lives. No
  process id is believed without it: neither a crash nor a reboot leaves anything behind that misleads.
- guardian: held by the one detached process that tries for the users' lock, and so notices users that were killed.

The last user stops the server and waits until it is gone. Where nobody uses it, no process is left. Where somebody does
and it dies, the guardian starts it again; where the short path to its socket is cleaned away, it makes that again.
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

# To start or to stop takes tenths of a second; to look takes microseconds.
POLL_SECONDS = 0.02
# A server that is ready, but can't be reached for so long, runs in another container: its socket is not here.
UNREACHABLE_SECONDS = 10.0


# How late the guardian notices that the last user was killed, or the server.
GUARD_SECONDS = 0.5
# How long it leaves a server alone that it has just started: one that dies at once should not fill the log.
RESTART_SECONDS = 5.0


def default_data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the embedded server keeps its data: IMPORTER_DATA_DIR, else the user's data folder (XDG)."""
    if given := environment.get("IMPORTER_DATA_DIR"):
        return Path(given)
    if data_home := environment.get("XDG_DATA_HOME"):
        return Path(data_home) / "large-file-importer"
    try:
        home = Path.home()
    except (
        RuntimeError
    ):  # no HOME, and a user id without an account; it matters only where the folder is used
        home = Path("/")
    return home / ".local" / "share" / "large-file-importer"


@contextmanager
def embedded_server(data_folder: Path) -> Generator[str]:
    """Use the embedded PostgreSQL 18 of a folder: yield the URL of its database `postgres`.

    The first user makes and starts it, in about a second; after a crash it takes as long as the recovery does.
    A process that is killed meanwhile, or while it uses the server, leaves nothing to clean up. Takes libpq's variables
    out of the process's environment.
    Raises LoaderError (EMBEDDED_DATABASE).
    """
    folder = data_folder.absolute()
    try:
        users, socket_folder = _enter(folder)
    except OSError as error:
        hint = "Choose another folder (IMPORTER_DATA_DIR, --data-dir), or set DATABASE_URL to a PostgreSQL of your own."
        raise failure(folder, f"can't be used: {error}", hint) from error
    _forget_libpq_variables()
    try:
        yield f"postgresql://postgres@/postgres?host={quote(str(socket_folder), safe='')}&port={PORT}"
    finally:
        _leave(folder, users)


def _forget_libpq_variables() -> None:
    """Take PGHOST, PGOPTIONS, PGSERVICE and the like out of the environment: they are meant for another server.

    A URL overrides most of them only. https://www.postgresql.org/docs/current/libpq-envars.html
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def _enter(folder: Path) -> tuple[int, Path]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = _open_lock(folder / USERS_LOCK)
    try:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for whoever is stopping the server
        _start_guardian(folder)
        return users, _start_or_join(folder)
    except BaseException:
        os.close(users)  # what may have started already, the guardian stops
        raise


def _leave(folder: Path, users: int) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _stop(folder)
    except BlockingIOError:
        fcntl.flock(
            users, fcntl.LOCK_SH
        )  # at once where others use it; else waits for whoever is stopping it
    finally:
        os.close(users)


def _start_or_join(folder: Path) -> Path:
    """Return the folder of the server's socket, once it accepts connections."""
    started = False
    ready_since: float | None = None
    while True:
        server_lock = _try_lock(folder / SERVER_LOCK)
        if server_lock is not None:  # no process of a server lives, and nobody else starts one
            try:
                if started:
                    raise failure(folder, "stopped while it was starting")
                start_server(folder, server_lock)
            finally:
                os.close(server_lock)  # the server has inherited it
            started = True
        _, ready = read_pid_file(folder)
        if not ready:  # recovering from a crash, perhaps for minutes
            ready_since = None
        elif socket_folder := reachable_socket_folder(folder):
            return socket_folder
        else:
            restore_socket_folder(folder)
            ready_since = ready_since or time.monotonic()
            if time.monotonic() - ready_since > UNREACHABLE_SECONDS:
                raise failure(folder, "runs, but can't be reached: perhaps in another container")
        time.sleep(POLL_SECONDS)  # between two looks


def _stop(folder: Path) -> None:
    """Stop the server, if there is one, and wait until it is gone; the users' lock is held exclusively."""
    told: int | None = None
    while (server_lock := _try_lock(folder / SERVER_LOCK)) is None:
        process_id, _ = read_pid_file(folder)
        if process_id is not None and process_id != told:
            try:
                os.kill(process_id, signal.SIGINT)  # a fast shutdown
            except (ProcessLookupError, PermissionError):
                return  # it was killed; its children notice, and whoever starts the next waits for them
            told = process_id
        time.sleep(POLL_SECONDS)  # between two looks
    remove_socket_folder(folder)
    os.close(server_lock)


def _start_guardian(folder: Path) -> None:
    guardian_lock = _try_lock(folder / GUARDIAN_LOCK)
    if guardian_lock is not None:
        # -P: the folder it runs in, /, is no place to import from
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
    """Be the guardian: until nobody uses the server have it up; then stop it, if the last user did not."""
    while (users := _try_lock(folder / USERS_LOCK)) is None:
        time.sleep(RESTART_SECONDS if _revive(folder) else GUARD_SECONDS)
    _stop(folder)
    os.close(guardian_lock)  # first: a user let in by closing the other must not count on this guardian
    os.close(users)


def _revive(folder: Path) -> bool:
    """Start the server again if it has died under its users, which True tells; restore the path to its socket."""
    if (is_alive := _seems_alive(folder)) and has_socket_folder(folder):
        return False
    users = _open_lock(folder / USERS_LOCK)
    try:
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)  # else somebody is stopping it
        if is_alive:
            restore_socket_folder(folder)
            return False
        if (
            server_lock := _try_lock(folder / SERVER_LOCK)
        ) is None:  # it starts, or its children have not all ended
            return False
        try:
            start_server(folder, server_lock)
        finally:
            os.close(server_lock)
    except BlockingIOError:
        return False
    except (LoaderError, OSError) as error:
        sys.stderr.write(f"{error}\n")  # which is the log; who comes next is told
    finally:
        os.close(users)
    return True


def _seems_alive(folder: Path) -> bool:
    """Whether there is a process of the server's id. To look for sure takes locks, which would be in the way of others."""
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
