"""Whom the embedded PostgreSQL runs as: it refuses to be root, and must reach its programs and its files all the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# The user without rights, by name usually nobody; the kernel's overflow id (user_namespaces(7)).
NOBODY = 65534


class Account(NamedTuple):
    """Whom a program runs as; without ids as whoever we are."""

    prefix: tuple[str, ...] = ()
    user_id: int | None = None
    group_id: int | None = None

    @property
    def owner(self) -> int:
        """The id of the user that its files belong to, as we see it."""
        return os.geteuid() if self.user_id is None else self.user_id


OURS = Account()
# Looks like nobody to itself, and has root's files still: those that root owns, wherever they are.
UNSHARED = Account(("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"))
WITHOUT_RIGHTS = Account((), NOBODY, NOBODY)

# Without PG* variables, locale and time zone of whoever comes first.
SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def run(
    command: Sequence[str],
    account: Account,
    *,
    environment: Mapping[str, str] = SERVER_ENVIRONMENT,
    output: int = subprocess.DEVNULL,
    inherited: Sequence[int] = (),
) -> int:
    """Run a program, out of reach of the terminal's Ctrl-C, and return its exit code.

    `output` and `inherited` are file descriptors. Raises OSError where it can't be started.
    """
    return subprocess.run(  # noqa: S603 - our interpreter and the wheel's programs, nobody else's text
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
    """Return whom `postgres` can run as on the cluster within the folder, or None: root, and no other user gets there.

    May open the folder for passing through.
    """
    if os.geteuid() != 0:
        return OURS
    if _can_run(UNSHARED, postgres, "-w", cluster if cluster.exists() else folder):
        return UNSHARED
    if _can_run(WITHOUT_RIGHTS, postgres, "-x", folder):
        return WITHOUT_RIGHTS
    folder.chmod(folder.stat().st_mode | 0o001)  # to pass through, not to list
    return WITHOUT_RIGHTS if _can_run(WITHOUT_RIGHTS, postgres, "-x", folder) else None


def _can_run(account: Account, postgres: Path, access: str, path: Path) -> bool:
    script = 'test "$1" "$2" && exec "$3" --version'
    try:
        return run(["/bin/sh", "-c", script, "sh", access, str(path), str(postgres)], account) == 0
    except OSError:  # there is no unshare, or no right to become another user
        return False


def give_to(account: Account, folder: Path) -> None:
    """Make the account the owner of a folder and all in it."""
    if account.user_id is not None and account.group_id is not None:
        for path in (*folder.rglob("*"), folder):  # the folder last: its owner tells that it is done
            os.chown(path, account.user_id, account.group_id, follow_symlinks=False)
