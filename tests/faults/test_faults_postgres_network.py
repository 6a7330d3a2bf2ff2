"""Connections to the database that are cut, on one side or both, or get no response: the import resumes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
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

# An unresponsive database is given up after two of these intervals, instead of after half a minute.
IMPATIENT = with_limits(connect_timeout_seconds=2, tcp_user_timeout_seconds=2, watchdog_seconds=2)


@pytest.fixture
def proxy(database_url: str) -> Generator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def distant(proxy: Proxy, tmp_path: Path) -> Loaders:
    """Starts loaders that connect to the database through the proxy."""
    return Loaders(tmp_path, proxy.url)


def test_both_sides_drop_a_connection_that_is_silent_for_half_a_minute() -> None:
    if sys.platform != "linux":
        pytest.skip("TCP_USER_TIMEOUT is Linux's")
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
    proxy.close_connections()
    resume_serving(server)
    assert loader.receipt().attempts >= 2
    assert checksum(distant.database_url) == whole
    assert_nothing_is_left(distant.database_url)


def test_connections_that_only_the_client_has_lost_block_no_attempt(
    proxy: Proxy, distant: Loaders, server: HttpServer, sample: bytes
) -> None:
    """The lost sessions hold the import's lock until TCP notices that they are lost."""
    whole = checksum_of(distant.database_url, sample)
    loader = start_until_stalled(distant, server)
    proxy.close_loader_sides()
    resume_serving(server)
    assert loader.receipt().attempts >= 2
    assert checksum(distant.database_url) == whole


# The error of a pooler that has waited too long for a server.
_COMPLAINT = b"SFATAL\0C08P01\0Mquery_wait_timeout\0\0"
COMPLAINT = b"E" + struct.pack("!i", 4 + len(_COMPLAINT)) + _COMPLAINT


@pytest.mark.parametrize(
    ("accepts_logins", "farewell", "refuses_connections"),
    [
        (False, b"", False),
        pytest.param(True, b"", False, marks=pytest.mark.long),
        pytest.param(True, COMPLAINT, False, marks=pytest.mark.long),
        pytest.param(False, b"", True, marks=pytest.mark.long),
    ],
    ids=["no response", "no response after login", "an error after login", "refused connections"],
)
def test_an_unresponsive_database_is_given_up_and_the_import_resumes(
    accepts_logins: bool,
    farewell: bytes,
    refuses_connections: bool,
    proxy: Proxy,
    distant: Loaders,
    database_url: str,
    server: HttpServer,
    sample: bytes,
) -> None:
    """TCP notices nothing, because the proxy acknowledges the data."""
    whole = checksum_of(database_url, sample)
    loader = start_until_stalled(distant, server, environment=IMPATIENT)
    proxy.accepts_logins, proxy.farewell = accepts_logins, farewell
    proxy.refuses_connections = refuses_connections
    proxy.loses_requests = True
    resume_serving(server)
    wait_for("its sessions to be given up", lambda: backends(Loaders(Path(), database_url), "%") == [])
    proxy.close_connections()
    assert loader.receipt().attempts >= 2
    assert checksum(database_url) == whole
    assert_nothing_is_left(database_url)


def test_a_run_that_logs_in_and_then_gets_no_response_ends(
    proxy: Proxy, distant: Loaders, server: HttpServer
) -> None:
    proxy.loses_requests = proxy.accepts_logins = True
    last = distant.start("run", server.url, environment=IMPATIENT).failure()
    assert (last.failure.code, last.staging) == (FailureCode.DATABASE_UNAVAILABLE, "none")


@pytest.mark.long
def test_a_run_stopped_during_an_outage_reports_the_pending_cleanup(
    proxy: Proxy, distant: Loaders, database_url: str, server: HttpServer
) -> None:
    loader = start_until_stalled(distant, server, environment=with_lock_limit(1))
    proxy.loses_requests = True
    loader.process.terminate()
    last = loader.failure()
    assert (last.failure.code, last.staging) == (FailureCode.CLEANUP_PENDING, "unknown")
    proxy.close_connections()
    wait_until_disconnected(database_url)
    assert distant.start("gc").wait() == 0
    assert_nothing_is_left(database_url)


def test_one_lost_response_is_noticed(
    proxy: Proxy, distant: Loaders, database_url: str, server: HttpServer
) -> None:
    """The response to the publish's commit is lost; the connection is not."""
    loader = start_until_stalled(distant, server, environment=IMPATIENT)
    with psycopg.connect(database_url) as connection:
        connection.execute(SLOW_COMMIT.encode())
    resume_serving(server)
    commits = "SELECT FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'"
    wait_for("the commit", lambda: query(database_url, commits) != [])
    proxy.loses_one_response = True
    receipt = loader.receipt()
    assert receipt.attempts == 1
    assert receipt.rows_published == row_count(database_url) > 0
    assert_nothing_is_left(database_url)


# A network for one test


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
        for namespace in (
            self.name,
            self._wire,
        ):  # with their ends of the pairs, which removes the other ends
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
    # through its Unix socket, without the network
    wait_for("the server to drop its side", lambda: backends(Loaders(tmp_path, far.url), "%") == [])
    network.join()
    assert loader.receipt().attempts >= 2
    assert checksum(far.url) == whole
    assert_nothing_is_left(far.url)
