"""The user that the embedded PostgreSQL runs as: not root, which it refuses, but one that can access programs and files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# The user without rights, usually called nobody: the kernel's overflow id (user_namespaces(7)).
NOBODY = 65534


class Account(NamedTuple):
    """The user that a program runs as; without ids, this process's user."""

    prefix: tuple[str, ...] = ()
    user_id: int | None = None
    group_id: int | None = None


OURS = Account()
# Root in a user namespace, as which it sees itself as nobody: it can still access the files of root.
UNSHARED = Account(("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"))
WITHOUT_RIGHTS = Account((), NOBODY, NOBODY)

# Without the PG* variables, locale and time zone of the process that starts it.
SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def run(
    command: Sequence[str],
    account: Account,
    *,
    environment: Mapping[str, str] = SERVER_ENVIRONMENT,
    output: int = subprocess.DEVNULL,
    inherited: Sequence[int] = (),
) -> int:
    """Run a program, which the terminal's Ctrl-C does not reach, and return its exit code.

    `output` and `inherited` are file descriptors. Raises OSError if it can't be started.
    """
    return subprocess.run(  # noqa: S603 - this interpreter and the wheel's programs, no text from outside
        [*account.prefix, *command],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=inherited,
        start_new_session=True,
        cwd="/",
        env=environment,
        user=account.user_id,
        group=account.group_id,
        extra_groups=None if account.user_id is None else [],
    ).returncode


def choose_account(folder: Path, cluster: Path, postgres: Path) -> Account | None:
    """Return the account that can run `postgres` on the cluster in the folder; None if only root can access them.

    May give other users the right to pass through the folder.
    """
    if os.geteuid() != 0:
        return OURS
    if _can_run(UNSHARED, postgres, "-w", cluster if cluster.exists() else folder):
        return UNSHARED
    if _can_run(WITHOUT_RIGHTS, postgres, "-x", folder):
        return WITHOUT_RIGHTS
    folder.chmod(folder.stat().st_mode | 0o001)  # pass through, not list
    return WITHOUT_RIGHTS if _can_run(WITHOUT_RIGHTS, postgres, "-x", folder) else None


def _can_run(account: Account, postgres: Path, access: str, path: Path) -> bool:
    script = 'test "$1" "$2" && exec "$3" --version'
    try:
        return run(["/bin/sh", "-c", script, "sh", access, str(path), str(postgres)], account) == 0
    except OSError:  # no program unshare, or no right to become another user
        return False


def give_to(account: Account, folder: Path) -> None:
    """Make the account the owner of a folder and all its files."""
    if account.user_id is not None and account.group_id is not None:
        for path in (*folder.rglob("*"), folder):  # the folder last: its owner marks that all are done
            os.chown(path, account.user_id, account.group_id, follow_symlinks=False)
