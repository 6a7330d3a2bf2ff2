"""A program that is run in a network namespace of its own, where every address leads to this machine: so what is dialled
is seen, wherever it would go. No packet leaves.

Reads a JSON object from stdin: `locations` to be probed under a policy that allows nothing; `open` ones to be dialled
without a policy; `targets` that the file's server, which is allowed, redirects to; `jobs` for a loader of its own. Each has
PORT for the port that everybody listens at. Writes a JSON object: for each list a list of what was said and of the
addresses to which a SYN went.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import msgspec

from loader.contract import Failed, Job, Message
from loader.errors import LoaderError
from loader.http.connection import Dialer
from loader.http.url import parse_url
from loader.limits import Limits
from loader.source.open import open_source

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run as a program

from tests.support.http_server import Fault, HttpServer
from tests.support.source_reading import QUICK

_PACKET_FAMILY: int = getattr(socket, "AF_PACKET", -1)  # Linux's, as are the namespaces in which this runs
_ALL_PROTOCOLS = 0x0003  # linux/if_ether.h
_ETHERNET_BYTES = 14
_SYN, _ACK = 0x02, 0x10
# One try, with time enough for a machine that stalls; what is dialled here answers at once, or can't be.
_HASTY = msgspec.structs.replace(QUICK, probe_attempts=1, connect_seconds=5)


class Capture:
    """Sees every packet of the namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(_PACKET_FAMILY, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.setblocking(False)

    def dialled(self) -> list[str]:
        """Return where the SYNs went that were sent since the last call."""
        found: set[str] = set()
        while True:
            try:
                packet = self._socket.recv(65_536)[_ETHERNET_BYTES:]
            except BlockingIOError:
                return sorted(found)
            if address := _target_of_syn(packet):
                found.add(address)


def _target_of_syn(packet: bytes) -> str | None:
    version = packet[0] >> 4 if packet else 0
    if version == 4 and packet[9] == socket.IPPROTO_TCP:
        target, segment = packet[16:20], packet[4 * (packet[0] & 15) :]
    elif version == 6 and packet[6] == socket.IPPROTO_TCP:
        target, segment = packet[24:40], packet[40:]
    else:
        return None
    (flags,) = struct.unpack_from("!B", segment, 13)
    return str(ip_address(target)) if flags & (_SYN | _ACK) == _SYN else None


def probed(location: str, *allowed: str) -> str:
    """Return how a probe ends: the failure as JSON, or nothing."""
    try:
        source = open_source(location, Limits(retry_policy=_HASTY), allowed_hosts=[*allowed])
        try:
            source.probe()
        finally:
            source.close()
    except LoaderError as error:
        return msgspec.json.encode(error.failure).decode()
    return ""


def dialled_freely(location: str) -> str:
    address = parse_url(location)
    try:
        Dialer(None).dial(address.host, address.port, 5, lambda _: None).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def loaded(location: str) -> str:
    """Return how a loader process ends that has a policy."""
    # The loader looks into its database for what an earlier run has kept: by a socket, which sends no packet.
    job = Job(location, allowed_hosts=[], database_url="postgresql:///nowhere?host=/nowhere")
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "loader", "run", "--progress", "json"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as loader:
        assert loader.stdin is not None
        assert loader.stdout is not None
        loader.stdin.write(msgspec.json.encode(job) + b"\n")
        loader.stdin.flush()  # and held open, as a supervisor does
        last = msgspec.json.decode(loader.stdout.readlines()[-1], type=Message)
    assert isinstance(last, Failed), last
    return msgspec.json.encode(last.failure).decode()


def main() -> None:
    wanted = json.load(sys.stdin)
    for command in ("link set lo up", "route add local default dev lo", "-6 route add local default dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    capture = Capture()
    with HttpServer(b"nothing\n") as server:
        allowed = f"127.0.0.1:{server.port}"

        def redirected(target: str) -> str:
            server.rule = lambda _: Fault(status=302, headers={"Location": target})
            return probed(f"http://{allowed}/", allowed)

        def seen(tried: Callable[[str], str], location: str) -> tuple[str, list[str]]:
            said = tried(location.replace("PORT", str(server.port)))
            return said, capture.dialled()

        tries = {"locations": probed, "open": dialled_freely, "targets": redirected, "jobs": loaded}
        json.dump(
            {name: [seen(tried, each) for each in wanted[name]] for name, tried in tries.items()}, sys.stdout
        )


if __name__ == "__main__":
    main()
