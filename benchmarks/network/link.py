"""An emulated link between two network namespaces: this process delays or drops each packet.

Many kernels lack the module netem; nearly all have TUN devices. TCP is the kernel's own either way. Needs root and the
program `ip`. The namespaces end with this process.
https://docs.kernel.org/networking/tuntap.html
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec

from benchmarks.network.profile import NetworkProfile, Traffic, TrafficCounter, query
from examples.file_server import serve

# linux/if_tun.h and linux/sched.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000

TUN = Path("/dev/net/tun")
# Those of the namespace that the process is in: https://docs.kernel.org/networking/ip-sysctl.html
SEND_BUFFERS = Path("/proc/sys/net/ipv4/tcp_wmem")
DEVICE = "narrow0"
MTU_BYTES = 1500
SERVER, CLIENT = "10.213.0.1", "10.213.0.2"
# Smaller packets open, acknowledge and close connections.
DATA_BYTES = 500
# Small enough that the other direction waits for a millisecond at most.
BATCH_PACKETS = 64
# As most servers on the Internet, it slows down when a packet is lost; bbr, the default of some systems, does not.
CONGESTION = "cubic"


class Link:
    """Implements EmulatedNetwork."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, stack: contextlib.ExitStack) -> None:
        self._process = process
        self._namespaces = msgspec.json.decode(query(process), type=dict[str, int])
        options = [f"--host={SERVER}", f"--congestion={CONGESTION}"]
        self.base_url = stack.enter_context(serve(folder, options, self._enter(SERVER)))

    def client_command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs a command in the client's namespace."""
        return [*self._enter(CLIENT), *command]

    def traffic(self) -> Traffic:
        """Return what the client received since the last call."""
        return msgspec.json.decode(query(self._process), type=Traffic)

    def _enter(self, end: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._process.pid}/fd/{self._namespaces[end]}", "--"]


def is_possible() -> bool:
    """Return whether this process may create links."""
    return os.geteuid() == 0 and os.access(TUN, os.W_OK)


@contextlib.contextmanager
def open_link(profile: NetworkProfile, folder: Path) -> Generator[Link]:
    """Serve the files of a folder over a link, until the context ends."""
    command = [sys.executable, "-m", __name__, msgspec.json.encode(profile).decode()]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.terminate)
        yield Link(process, folder, stack)


class _Direction:
    """The packets in transit from one end to the other."""

    def __init__(self, source: int, target: int, profile: NetworkProfile, *, is_narrow: bool) -> None:
        self.source = source
        self.counter = TrafficCounter()
        self._target = target
        self._profile = profile
        self._is_narrow = is_narrow
        self._in_transit: deque[tuple[float, bytes]] = deque()  # time of arrival and packet, in order
        self._free_at = 0.0  # when the link has sent everything that is queued

    def receive(self) -> None:
        """Read what the source has sent."""
        now = departs = time.monotonic()
        for _ in range(BATCH_PACKETS):
            try:
                packet = os.read(self.source, MTU_BYTES)
            except BlockingIOError:
                return
            if self._is_narrow:
                departs = max(now, self._free_at) + len(packet) * 8 / self._profile.bits_per_second
                # a queue of one round trip, the usual size in routers
                is_full = departs - now > self._profile.round_trip_seconds
                if is_full or random.random() < self._profile.loss:  # noqa: S311 - no secret
                    continue
                self._free_at = departs
            self._in_transit.append((departs + self._profile.round_trip_seconds / 2, packet))

    def deliver(self) -> float | None:
        """Write the packets that have arrived; return when the next one arrives, or None."""
        now = time.monotonic()
        while self._in_transit:
            at, packet = self._in_transit[0]
            if at > now:
                return at
            self._in_transit.popleft()
            os.write(self._target, packet)
            if len(packet) >= DATA_BYTES:
                self.counter.add(at, len(packet))
        return None


def main(profile: NetworkProfile) -> None:
    """Run a link. It replies to each line of input: to the first with the namespaces, to the others with the traffic."""
    with contextlib.suppress(PermissionError):
        os.nice(-15)  # packets do not wait for a core
    server, server_namespace = _open_end(SERVER, CLIENT, profile)
    client, client_namespace = _open_end(CLIENT, SERVER, profile)
    sys.stdin.readline()
    print(msgspec.json.encode({SERVER: server_namespace, CLIENT: client_namespace}).decode(), flush=True)
    to_client = _Direction(server, client, profile, is_narrow=True)
    to_server = _Direction(client, server, profile, is_narrow=False)
    while True:
        due = [at for at in (to_client.deliver(), to_server.deliver()) if at is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        # poll() would round the timeout to milliseconds
        ready, _, _ = select.select([server, client, sys.stdin], [], [], timeout)
        for direction in (to_client, to_server):
            if direction.source in ready:
                direction.receive()
        if sys.stdin in ready:
            sys.stdin.readline()
            print(msgspec.json.encode(to_client.counter.take()).decode(), flush=True)


def _open_end(address: str, peer: str, profile: NetworkProfile) -> tuple[int, int]:
    """Create a namespace with one end of the link; return the descriptors of its device and of the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace")
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        f"ip address add {address} peer {peer} dev {DEVICE}",
        f"ip link set {DEVICE} mtu {MTU_BYTES} txqueuelen 10000 up",  # only this process drops packets
    ):
        subprocess.run(command.split(), check=True)
    SEND_BUFFERS.write_text(f"4096 16384 {profile.send_buffer_bytes}")
    return device, os.open("/proc/self/ns/net", os.O_RDONLY)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=NetworkProfile))
