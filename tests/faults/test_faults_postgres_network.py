"""The way to the database is cut, on one side or on both, or leads to somebody who says nothing: the import goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest

from loader.contract import FailureCode
from loader.postgres.connection import Database
from tests.loader.pipeline.test_commit_point import SLOW_COMMIT
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    Loaders,
    assert_nothing_is_left,
    checksum,
    checksum_of,
    query,
    row_count,
    wait_for,
    wait_until_disconnected,
    with_limits,
    with_lock_limit,
)
from tests.support.mid_load import backends, resume_serving, start_until_stalled
from tests.support.postgres_proxy import Proxy
from tests.support.postgres_server import OwnServer, own_server

pytestmark = pytest.mark.slow

# A database that says nothing is given up after two of these, instead of after half a minute.
IMPATIENT = with_limits(connect_timeout_seconds=2, tcp_user_timeout_seconds=2, watchdog_seconds=2)


@pytest.fixture
def proxy(database_url: str) -> Generator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def distant(proxy: Proxy, tmp_path: Path) -> Loaders:
    """What starts loaders that reach the database by the proxy alone."""
    return Loaders(tmp_path, proxy.url)


def test_both_sides_of_a_connection_drop_it_when_the_other_is_silent_for_half_a_minute() -> None:
    with own_server() as own, Database(own.tcp_url).connection("test") as connection:
        names = ("keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout")
        # the server shows what its socket has: https://www.postgresql.org/docs/current/runtime-config-connection.html
        shown = [connection.execute(f"SHOW tcp_{name}".encode()).fetchone() for name in names]
        assert shown == [("10",), ("5",), ("3",), ("30000",)]
        with socket.socket(fileno=socket.dup(connection.fileno())) as ours:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            assert [ours.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [10, 5, 3, 30_000]
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.long
def test_connections_that_are_cut_cost_an_attempt_and_no_row(
    proxy: Proxy, distant: Loaders, server: HttpServer, sample: bytes
) -> None:
    whole = checksum_of(distant.database_url, sample)
    loader = start_until_stalled(distant, server)
    proxy.hang_up()
    resume_serving(server)
    assert loader.receipt().attempts >= 2
    assert checksum(distant.database_url) == whole
    assert_nothing_is_left(distant.database_url)


def test_connections_of_which_the_server_does_not_know_the_end_keep_nobody_out(
    proxy: Proxy, distant: Loaders, server: HttpServer, sample: bytes
) -> None:
    """The lost sessions hold the import's lock, and would until TCP finds that they are lost."""
    whole = checksum_of(distant.database_url, sample)
    loader = start_until_stalled(distant, server)
    proxy.lose_loaders()
    resume_serving(server)
    assert loader.receipt().attempts >= 2
    assert checksum(distant.database_url) == whole


# As a pooler speaks that has waited for a server for too long.
_COMPLAINT = b"SFATAL\0C08P01\0Mquery_wait_timeout\0\0"
COMPLAINT = b"E" + struct.pack("!i", 4 + len(_COMPLAINT)) + _COMPLAINT


@pytest.mark.parametrize(
    ("lets_in", "parting_words", "turns_away"),
    [
        (False, b"", False),
        pytest.param(True, b"", False, marks=pytest.mark.long),
        pytest.param(True, COMPLAINT, False, marks=pytest.mark.long),
        pytest.param(False, b"", True, marks=pytest.mark.long),
    ],
    ids=["deaf", "deaf once they have logged in", "complains to newcomers", "turns newcomers away"],
)
def test_a_database_that_goes_deaf_is_given_up_and_gone_on_with_when_it_hears_again(
    lets_in: bool,
    parting_words: bytes,
    turns_away: bool,
    proxy: Proxy,
    distant: Loaders,
    database_url: str,
    server: HttpServer,
    sample: bytes,
) -> None:
    """TCP is content meanwhile: somebody takes what is sent."""
    whole = checksum_of(database_url, sample)
    loader = start_until_stalled(distant, server, environment=IMPATIENT)
    proxy.lets_in, proxy.parting_words, proxy.turns_away = lets_in, parting_words, turns_away
    proxy.is_deaf = True
    resume_serving(server)
    wait_for("its sessions to be given up", lambda: backends(Loaders(Path(), database_url), "%") == [])
    proxy.hang_up()
    assert loader.receipt().attempts >= 2
    assert checksum(database_url) == whole
    assert_nothing_is_left(database_url)


def test_a_run_that_is_let_in_and_then_hears_nothing_ends(
    proxy: Proxy, distant: Loaders, server: HttpServer
) -> None:
    proxy.is_deaf = proxy.lets_in = True
    last = distant.start("run", server.url, environment=IMPATIENT).failure()
    assert (last.failure.code, last.staging) == (FailureCode.DATABASE_UNAVAILABLE, "none")


@pytest.mark.long
def test_stopped_while_the_database_is_deaf_it_says_what_is_left_to_do(
    proxy: Proxy, distant: Loaders, database_url: str, server: HttpServer
) -> None:
    loader = start_until_stalled(distant, server, environment=with_lock_limit(1))
    proxy.is_deaf = True
    loader.process.terminate()
    last = loader.failure()
    assert (last.failure.code, last.staging) == (FailureCode.CLEANUP_PENDING, "unknown")
    proxy.hang_up()
    wait_until_disconnected(database_url)
    assert distant.start("gc").wait() == 0
    assert_nothing_is_left(database_url)


def test_one_answer_that_is_lost_is_missed(
    proxy: Proxy, distant: Loaders, database_url: str, server: HttpServer
) -> None:
    """That of the publish's commit: the connection lives, the server has answered, and nothing comes."""
    loader = start_until_stalled(distant, server, environment=IMPATIENT)
    with psycopg.connect(database_url) as connection:
        connection.execute(SLOW_COMMIT.encode())
    resume_serving(server)
    commits = "SELECT FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'"
    wait_for("the commit", lambda: query(database_url, commits) != [])
    proxy.loses_an_answer = True
    receipt = loader.receipt()
    assert receipt.attempts == 1
    assert receipt.rows_published == row_count(database_url) > 0
    assert_nothing_is_left(database_url)


# A network of its own


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """A namespace, and the way to it: a bridge in another namespace, where no firewall of this machine has a say.

    Parted, both ends stay up, and nothing passes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._wire = f"{name}w"

    def make(self) -> None:
        for namespace in (self.name, self._wire):
            ip("netns", "add", namespace)
        ip("link", "add", f"{self.name}x", "type", "veth", "peer", "name", "near", "netns", self._wire)
        ip("-n", self._wire, "link", "add", "far", "type", "veth", "peer", "name", "end", "netns", self.name)
        ip("-n", self._wire, "link", "add", "bridge", "type", "bridge")
        for port in ("near", "far"):
            ip("-n", self._wire, "link", "set", port, "master", "bridge", "up")
        ip("-n", self._wire, "link", "set", "bridge", "up")
        ip("address", "add", "10.213.77.1/30", "dev", f"{self.name}x")
        ip("link", "set", f"{self.name}x", "up")
        ip("-n", self.name, "address", "add", "10.213.77.2/30", "dev", "end")
        ip("-n", self.name, "link", "set", "end", "up")

    def part(self) -> None:
        ip("-n", self._wire, "link", "set", "far", "nomaster")

    def join(self) -> None:
        ip("-n", self._wire, "link", "set", "far", "master", "bridge")

    def remove(self) -> None:
        for namespace in (self.name, self._wire):  # and their ends of pairs, which takes the others along
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", namespace)


@pytest.fixture
def network() -> Generator[Network]:
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root can make a network, with the program ip")
    network = Network(f"pg{os.getpid() % 10**6}")
    try:
        try:
            network.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network can be made here: {error.stderr.decode().strip()}")
        yield network
    finally:
        network.remove()


@pytest.fixture
def far(network: Network) -> Generator[OwnServer]:
    with own_server(prefix=("ip", "netns", "exec", network.name), host="10.213.77.2") as server:
        yield server


@pytest.mark.long
def test_a_partition_is_noticed_on_both_sides_within_a_minute(
    network: Network, far: OwnServer, server: HttpServer, sample: bytes, tmp_path: Path
) -> None:
    whole = checksum_of(far.url, sample)
    loader = start_until_stalled(Loaders(tmp_path, far.tcp_url), server)
    network.part()
    resume_serving(server)
    # by its socket, which no network leads to
    wait_for("the server to drop its side", lambda: backends(Loaders(tmp_path, far.url), "%") == [])
    network.join()
    assert loader.receipt().attempts >= 2
    assert checksum(far.url) == whole
    assert_nothing_is_left(far.url)
