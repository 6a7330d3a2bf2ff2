"""No forbidden address is dialed: by no spelling, no resolution, no redirect.

Where a connection would be possible, somebody listens; elsewhere the dialler is stopped before its first packet.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract import Failure, FailureCode
from loader.errors import LoaderError
from loader.http.address_policy import AddressPolicy
from loader.http.connection import Dialer, Resolve, SocketAddress, resolve_name
from loader.http.url import parse_url
from loader.limits import Limits
from loader.source.http import HttpSource
from loader.source.open import open_source
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.inner_addresses import (
    FORBIDDEN_4,
    FORBIDDEN_6,
    LOOPBACK,
    LOOPBACK_6,
    OTHERS,
    spellings_4,
    spellings_6,
)
from tests.support.source_reading import QUICK, read

CONTENT = b"hvfhs_license_num,dispatching_base_num\n" * 2_000
# Where nothing would respond: a failing test ends soon.
HASTY = msgspec.structs.replace(QUICK, probe_attempts=1, read_timeout_seconds=10)
# Public, and never connected to.
PUBLIC, PUBLIC_6 = "93.184.215.14", "2606:2800:21f::1"

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="IPv6 is switched off")


class Listener:
    """Listens on every address of this machine, and sends no response."""

    def __init__(self) -> None:
        if socket.has_dualstack_ipv6():
            self._socket = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._socket = socket.create_server(("0.0.0.0", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def connections(self) -> int:
        """Return how many have come in since the last call: the kernel accepts them, and keeps them in a queue."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()
                count += 1
        return count

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Generator[Listener]:
    with contextlib.closing(Listener()) as listener:
        yield listener


class Dialled(Exception):
    """The next step would have been to connect."""


def dials(host: str, *allowed: str, port: int = 80, resolve: Resolve = resolve_name) -> bool:
    """Say whether a connection would be tried, without trying it."""

    def adopt(_: socket.socket) -> None:
        raise Dialled

    try:
        Dialer(AddressPolicy(allowed), resolve).dial(host, port, 1, adopt)
    except Dialled:
        return True
    except LoaderError as error:
        if error.code is not FailureCode.SOURCE_REFUSED:
            raise
        return False
    raise AssertionError("neither dialled nor refused")


def dials_spelled(spelling: str) -> bool:
    return dials(parse_url(f"http://{spelling}/").host)


def located(address: str, port: int) -> tuple[socket.AddressFamily, SocketAddress]:
    return (socket.AF_INET6 if ":" in address else socket.AF_INET), (address, port)


def answering(*addresses: str) -> Resolve:
    """Resolve every name to these addresses."""
    return lambda _, port: [located(address, port) for address in addresses]


def failure_of(location: str, *allowed: str) -> Failure:
    with (
        pytest.raises(LoaderError) as caught,
        contextlib.closing(
            open_source(location, Limits(retry_policy=HASTY), allowed_hosts=[*allowed])
        ) as source,
    ):
        source.probe()
    return caught.value.failure


def refusal() -> Failure:
    """Return what every refusal must look like."""
    with pytest.raises(LoaderError) as caught:
        AddressPolicy([]).check("example.org", 80, ["10.0.0.1"])
    return caught.value.failure


def test_a_refusal_reveals_nothing_of_the_address() -> None:
    failure = refusal()
    assert failure.code is FailureCode.SOURCE_REFUSED
    assert not any(character.isdigit() for character in failure.message + failure.hint)
    assert "example" not in failure.message + failure.hint


# --- spellings of an address


@pytest.mark.parametrize("form", [*LOOPBACK, *(pytest.param(form, marks=needs_ipv6) for form in LOOPBACK_6)])
def test_no_spelling_of_this_machine_is_dialled(listener: Listener, form: str) -> None:
    location = form.format(listener.port)
    Dialer(None).dial(parse_url(location).host, listener.port, 10, lambda _: None).close()
    assert listener.connections() == 1  # allowed without a policy
    assert failure_of(location) == refusal()
    assert listener.connections() == 0


@pytest.mark.parametrize("form", OTHERS)
def test_what_may_be_parsed_as_a_private_address_is_not_dialed(listener: Listener, form: str) -> None:
    failure = failure_of(form.format(listener.port))
    assert failure == refusal() or failure.code is FailureCode.USAGE
    assert listener.connections() == 0


@pytest.mark.parametrize("host", ["127.0.0.1.", "localhost.", "2130706433.", "0x7f.1."])
def test_a_trailing_dot_does_not_bypass_the_check(host: str) -> None:
    def resolve(name: str, port: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
        return resolve_name(name.removesuffix("."), port)  # some resolvers do, some ask a name server

    assert not dials(parse_url(f"http://{host}/").host, resolve=resolve)


@pytest.mark.parametrize(
    "location", ["-", "/etc/passwd", "trips.csv", "file:///etc/passwd", "s3://bucket/a", ""]
)
def test_under_a_policy_nothing_but_http_is_opened(location: str) -> None:
    failure = failure_of(location)
    assert failure.code is FailureCode.USAGE
    assert "path" not in failure.hint


@given(st.one_of([st.ip_addresses(v=4, network=network) for network in FORBIDDEN_4]))
def test_every_spelling_of_a_forbidden_ipv4_address_is_refused(address: IPv4Address) -> None:
    assert not any(map(dials_spelled, spellings_4(address)))


@given(st.one_of([st.ip_addresses(v=6, network=network) for network in FORBIDDEN_6]))
def test_every_spelling_of_a_forbidden_ipv6_address_is_refused(address: IPv6Address) -> None:
    assert not any(map(dials_spelled, spellings_6(address)))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_within_an_ipv6_address_is_refused_even_if_it_is_public(address: IPv4Address) -> None:
    number = int(address)
    holders = [
        number,  # IPv4-compatible
        0xFFFF << 32 | number,  # mapped
        0xFFFF << 48 | number,  # translated
        0x0064_FF9B << 96 | number,  # NAT64
        0x0064_FF9B_0001 << 80 | number,  # NAT64 of a local network
        0x2002 << 112 | number << 80,  # 6to4
        0x2001_0000 << 96 | number ^ 0xFFFF_FFFF,  # Teredo, which inverts it
    ]
    assert not any(dials_spelled(spelling) for each in holders for spelling in spellings_6(IPv6Address(each)))


def is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not any(address in network for network in [*FORBIDDEN_4, *FORBIDDEN_6])


@given(st.ip_addresses(v=4).filter(is_public))
def test_every_spelling_of_a_public_ipv4_address_is_allowed(address: IPv4Address) -> None:
    assert all(map(dials_spelled, spellings_4(address)))


@needs_ipv6
@given(st.ip_addresses(v=6, network="2000::/3").filter(is_public))
def test_every_spelling_of_a_public_ipv6_address_is_allowed(address: IPv6Address) -> None:
    assert all(map(dials_spelled, spellings_6(address)))


@pytest.mark.parametrize("network", [*FORBIDDEN_4, *FORBIDDEN_6], ids=str)
def test_both_ends_of_a_forbidden_network_belong_to_it(network: IPv4Network | IPv6Network) -> None:
    assert not dials(str(network[0]))
    assert not dials(str(network[-1]))


# --- what a name resolves to


@pytest.mark.parametrize(
    "answer", [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], [PUBLIC_6, PUBLIC, "::1"], [PUBLIC, "fe80::1%1"]]
)
def test_one_forbidden_address_among_public_ones_refuses_the_name(answer: list[str]) -> None:
    assert not dials("mixed.example", resolve=answering(*answer))
    public = [address for address in answer if address in (PUBLIC, PUBLIC_6)]
    assert dials("mixed.example", resolve=answering(*public))


def test_a_name_is_resolved_once_and_the_checked_address_is_dialed(listener: Listener) -> None:
    asked: list[str] = []

    def resolve(host: str, _: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
        asked.append(host)
        return [located("127.0.0.1" if len(asked) == 1 else "0.0.0.0", listener.port)]

    dialer = Dialer(AddressPolicy(["127.0.0.1"]), resolve)
    with dialer.dial("rebound.example", 80, 10, lambda _: None) as connected:
        assert connected.getpeername() == ("127.0.0.1", listener.port)
    assert asked == ["rebound.example"]


class Rebinding:
    """A name that resolves to the allowed address, and once `hostile` is set, to a forbidden one with a listener."""

    def __init__(self, listener: Listener) -> None:
        self.hostile = False
        self._port = listener.port

    def __call__(self, _: str, port: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
        return [located("0.0.0.0", self._port) if self.hostile else located("127.0.0.1", port)]


@contextlib.contextmanager
def rebinding_source(server: HttpServer, resolve: Resolve) -> Generator[HttpSource]:
    address = parse_url(f"http://rebound.example:{server.port}/trips.csv")
    dialer = Dialer(AddressPolicy(["127.0.0.1"]), resolve)
    source = HttpSource(address, dialer, Limits(retry_policy=QUICK), threading.Event())
    try:
        yield source
    finally:
        source.close()


@pytest.mark.parametrize(
    "fault",
    [Fault(before="close"), Fault(before="reset"), Fault(status=503, headers={"Connection": "close"})],
    ids=["closed", "reset", "503"],
)
def test_a_name_that_turns_inward_is_refused_when_the_first_look_is_retried(
    listener: Listener, fault: Fault
) -> None:
    name = Rebinding(listener)

    def rule(_: Request) -> Fault:
        name.hostile = True
        return fault

    with HttpServer(CONTENT) as server, rebinding_source(server, name) as source:
        server.rule = rule
        with pytest.raises(LoaderError) as caught:
            source.probe()
        assert caught.value.failure == refusal()
        assert len(server.requests) == 1
    assert listener.connections() == 0


@pytest.mark.parametrize(
    "fault",
    [None, Fault(body_bytes=1_000), Fault(before="reset")],
    ids=["idle connection closed", "cut", "reset"],
)
def test_a_name_that_turns_inward_is_refused_when_a_range_needs_a_new_connection(
    listener: Listener, fault: Fault | None
) -> None:
    name = Rebinding(listener)
    with HttpServer(CONTENT) as server, rebinding_source(server, name) as source:
        source.probe()
        name.hostile = True
        if fault is None:
            server.drop_connections()
        server.rule = lambda _: fault
        with pytest.raises(LoaderError) as caught:
            source.read_at(0, memoryview(bytearray(len(CONTENT))))
        assert caught.value.failure == refusal()
        assert len(server.requests) == (1 if fault is None else 2)
    assert listener.connections() == 0


# --- what leads there


def redirect(location: str, status: int) -> Fault:
    return Fault(status=status, headers={"Location": location})


@pytest.mark.parametrize(
    "form", [*LOOPBACK, "//127.0.0.1:{}/", "http://[::1]:{}/", "http://[::ffff:7f00:1]:{}/"]
)
@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_to_a_private_address_is_refused_like_the_address(
    listener: Listener, form: str, status: int
) -> None:
    # as a server sends it: UTF-8, of which the header module sees Latin-1
    inward = form.format(listener.port).encode().decode("latin-1")
    with HttpServer(CONTENT) as server:
        server.faults = [redirect("/further", 302), redirect(inward, status)]
        allowed = f"127.0.0.1:{server.port}"
        assert failure_of(f"http://{allowed}/", allowed) == refusal()
        assert len(server.requests) == 2
    assert listener.connections() == 0


def test_a_proxy_in_the_environment_is_not_dialled(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    assert failure_of("http://10.0.0.1/") == refusal()
    assert listener.connections() == 0


# --- what the operator allows


@pytest.mark.parametrize(
    "form", ["127.0.0.1", "127.0.0.1:{}", "127.0.0.0/8", "127.0.0.0/8:{}", "[127.0.0.1]:{}"]
)
def test_a_file_is_read_from_an_allowed_address(form: str) -> None:
    with HttpServer(CONTENT) as server:
        allowed = form.format(server.port)
        location = f"http://127.0.0.1:{server.port}/trips.csv"
        with contextlib.closing(
            open_source(location, Limits(retry_policy=QUICK), allowed_hosts=[allowed])
        ) as source:
            source.probe()
            assert read(source).data == CONTENT


@pytest.mark.parametrize("entry", ["intra.example", "Intra.Example.", "intra.example:8080"])
@pytest.mark.parametrize("host", ["intra.example", "intra.example."])
def test_an_allowed_name_may_resolve_to_anything(entry: str, host: str) -> None:
    assert dials(host, entry, port=8080, resolve=answering("10.0.0.1", PUBLIC, "::1", "169.254.169.254"))
    assert not dials(f"not-{host}", entry, port=8080, resolve=answering("10.0.0.1"))
    assert not dials(f"sub.{host}", entry, port=8080, resolve=answering("10.0.0.1"))


def test_a_name_beyond_ascii_is_judged_as_it_is_resolved() -> None:
    host = parse_url("http://faß.example/").host
    AddressPolicy(["xn--fa-hia.example"]).check(host, 80, ["10.0.0.1"])
    with pytest.raises(LoaderError):
        AddressPolicy(["fass.example"]).check(host, 80, ["10.0.0.1"])


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
        ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
        ("::1", "::1", "::2"),
        ("[::1]", "::1", "127.0.0.1"),
        ("fd00::/8", "fdff::1", "fc00::1"),
        ("[fd00::/8]:80", "fdff::1", "fc00::1"),
        ("64:ff9b::/96", "64:ff9b::808:808", "64:ff9b:1::808:808"),
        ("10.0.0.0/8", "10.0.0.1", "::ffff:10.0.0.1"),
        ("0.0.0.0/0", "127.0.0.1", "::1"),
    ],
)
def test_an_allowed_network_allows_its_addresses_and_no_others(entry: str, inside: str, outside: str) -> None:
    policy = AddressPolicy([entry])
    policy.check("intra.example", 80, [inside, PUBLIC])
    for answer in ([outside], [inside, outside], [outside, PUBLIC]):
        with pytest.raises(LoaderError) as caught:
            policy.check("intra.example", 80, answer)
        assert caught.value.failure == refusal()


@pytest.mark.parametrize("entry", ["127.0.0.1:8080", "127.0.0.0/8:8080", "intra.example:8080"])
def test_a_port_restricts_an_entry_and_not_public_addresses(entry: str) -> None:
    resolve = answering("127.0.0.1")
    assert dials("intra.example", entry, port=8080, resolve=resolve)
    assert not dials("intra.example", entry, port=8081, resolve=resolve)
    assert dials("intra.example", entry, port=8081, resolve=answering(PUBLIC))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "10.0.0.1/8",  # 10.0.0.0/8, or 10.0.0.1?
        "10.0.0.0/33",
        "10.0.0.0/",
        "010.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "127.0.0.1.",
        "::1/",
        "[::1",
        "[example.org]:80",
        "http://example.org",
        "example.org/path",
        "user@example.org",
        "*.example.org",
        ".example.org",
        "example..org",
        "exa mple.org",
        "example.org\n",
        "müller.example",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:８０",
        "example.org:http",
    ],
)
def test_an_entry_that_could_be_misunderstood_is_a_usage_error(entry: str) -> None:
    failure = failure_of("http://127.0.0.1/", "example.org", entry)
    assert failure.code is FailureCode.USAGE
    assert ascii(entry) in failure.message
