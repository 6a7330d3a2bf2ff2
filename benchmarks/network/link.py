"""A long and narrow link between two network namespaces: every packet passes through here, is delayed, or lost.

Linux' own tool for that, netem, is a module that many kernels lack; TUN devices they have, and what TCP makes of the
link is the kernel's own doing either way. Needs root and the program `ip`. The namespaces end with this process.
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

from benchmarks.network.profile import Shape, Tally, Traffic, ask
from examples.file_server import serve

# linux/if_tun.h and linux/sched.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000

TUN = Path("/dev/net/tun")
# Of the namespace that the writer is in: https://docs.kernel.org/networking/ip-sysctl.html
SEND_BUFFERS = Path("/proc/sys/net/ipv4/tcp_wmem")
DEVICE = "narrow0"
MTU_BYTES = 1500
SERVER, CLIENT = "10.213.0.1", "10.213.0.2"
# Smaller packets carry nothing of a file: they open and close connections.
DATA_BYTES = 500
# Of packets in one go, so that the other direction waits for no more than a millisecond.
BATCH = 64
# A lost packet slows it down, as on most servers of the Internet. Not so bbr, which some systems have as default.
CONGESTION = "cubic"


class Link:
    """See Way. The file server is at the other end."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, stack: contextlib.ExitStack) -> None:
        self._process = process
        self._namespaces = msgspec.json.decode(ask(process), type=dict[str, int])
        options = [f"--host={SERVER}", f"--congestion={CONGESTION}"]
        self.base_url = stack.enter_context(serve(folder, options, self._enter(SERVER)))

    def from_client(self, command: Sequence[str]) -> list[str]:
        """See Way."""
        return [*self._enter(CLIENT), *command]

    def traffic(self) -> Traffic:
        """See Way."""
        return msgspec.json.decode(ask(self._process), type=Traffic)

    def _enter(self, end: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._process.pid}/fd/{self._namespaces[end]}", "--"]


def is_possible() -> bool:
    """Whether this process may make links."""
    return os.geteuid() == 0 and os.access(TUN, os.W_OK)


@contextlib.contextmanager
def open_link(shape: Shape, folder: Path) -> Generator[Link]:
    """Open a link to a server of a folder's files, for as long as this lasts."""
    command = [sys.executable, "-m", __name__, msgspec.json.encode(shape).decode()]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.terminate)
        yield Link(process, folder, stack)


class _Direction:
    """Packets on their way from one end to the other."""

    def __init__(self, source: int, target: int, shape: Shape, *, is_narrow: bool) -> None:
        self.source = source
        self.tally = Tally()
        self._target = target
        self._shape = shape
        self._is_narrow = is_narrow
        self._way: deque[tuple[float, bytes]] = deque()  # when each arrives, in order
        self._free_at = 0.0  # when the link has sent what waits before it

    def take(self) -> None:
        """Take what the source has sent."""
        now = departs = time.monotonic()
        for _ in range(BATCH):
            try:
                packet = os.read(self.source, MTU_BYTES)
            except BlockingIOError:
                return
            if self._is_narrow:
                departs = max(now, self._free_at) + len(packet) * 8 / self._shape.bits_per_second
                # a queue of one round trip, as routers are dimensioned
                is_full = departs - now > self._shape.round_trip_seconds
                if is_full or random.random() < self._shape.loss:  # noqa: S311 - no secret
                    continue
                self._free_at = departs
            self._way.append((departs + self._shape.round_trip_seconds / 2, packet))

    def prefetched(self) -> float | None:
        """Hand over what has arrived; return when the next will."""
        now = time.monotonic()
        while self._way:
            at, packet = self._way[0]
            if at > now:
                return at
            self._way.popleft()
            os.write(self._target, packet)
            if len(packet) >= DATA_BYTES:
                self.tally.add(at, len(packet))
        return None


def main(shape: Shape) -> None:
    """Be a link. Each line of input is answered: the first with the namespaces, the next with the traffic."""
    with contextlib.suppress(PermissionError):
        os.nice(-15)  # a link does not wait for a core
    server, server_namespace = _open_end(SERVER, CLIENT, shape)
    client, client_namespace = _open_end(CLIENT, SERVER, shape)
    sys.stdin.readline()
    print(msgspec.json.encode({SERVER: server_namespace, CLIENT: client_namespace}).decode(), flush=True)
    to_client = _Direction(server, client, shape, is_narrow=True)
    to_server = _Direction(client, server, shape, is_narrow=False)
    while True:
        due = [at for at in (to_client.prefetched(), to_server.prefetched()) if at is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        # select, for its timeout is not rounded to milliseconds
        ready, _, _ = select.select([server, client, sys.stdin], [], [], timeout)
        for direction in (to_client, to_server):
            if direction.source in ready:
                direction.take()
        if sys.stdin in ready:
            sys.stdin.readline()
            print(msgspec.json.encode(to_client.tally.end()).decode(), flush=True)


def _open_end(address: str, peer: str, shape: Shape) -> tuple[int, int]:
    """Make a namespace with one end of the link; return the descriptors of its device and of itself."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace")
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        f"ip address add {address} peer {peer} dev {DEVICE}",
        f"ip link set {DEVICE} mtu {MTU_BYTES} txqueuelen 10000 up",  # only this process is to drop packets
    ):
        subprocess.run(command.split(), check=True)
    SEND_BUFFERS.write_text(f"4096 16384 {shape.send_buffer_bytes}")
    return device, os.open("/proc/self/ns/net", os.O_RDONLY)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Shape))
