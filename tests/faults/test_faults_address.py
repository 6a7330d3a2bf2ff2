"""Private addresses: neither loader nor service dials one, and the response reveals nothing.

How an address is judged is in test_address_policy.py; here is seen what the network sees.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import msgspec
import pytest

from loader.contract import Failure
from loader.errors import LoaderError
from loader.http.address_policy import AddressPolicy
from tests.support.http_server import Fault, HttpServer
from tests.support.inner_addresses import FORBIDDEN_4, FORBIDDEN_6, LOOPBACK, OTHERS, spellings_4, spellings_6
from tests.support.live_service import Json, LiveService, fresh_database
from tests.support.paths import PROGRAMS

pytestmark = pytest.mark.slow

# TCP can't connect to these, with or without a policy: multicast, and link-local addresses without a link.
UNREACHABLE = {"224.0.0.0/4", "fe80::/10", "ff00::/8"}

NAMESPACE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]


@functools.cache
def why_no_namespace() -> str | None:
    """Return why a network namespace can't be had here."""
    for program in ("unshare", "ip"):
        if shutil.which(program) is None:
            return f"there is no `{program}`"
    tried = subprocess.run([*NAMESPACE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return tried.stderr.strip() or "not permitted" if tried.returncode else None


def in_a_sealed_network(
    **wanted: Sequence[str],
) -> dict[str, list[tuple[str, list[str]]]]:
    """Have these tried there, see sealed_network.py."""
    if reason := why_no_namespace():
        pytest.skip(f"no network namespace: {reason}")
    lists = {"locations": (), "open": (), "targets": (), "jobs": (), **wanted}
    # a request for these would be recorded, too
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"), "http://127.0.0.9:9")
    ended = subprocess.run(
        [*NAMESPACE, sys.executable, str(PROGRAMS / "sealed_network.py")],
        input=json.dumps({name: [*each] for name, each in lists.items()}),
        stdout=subprocess.PIPE,
        env={**os.environ, **proxies},
        text=True,
        check=True,
    )
    return json.loads(ended.stdout)


def refusal() -> Failure:
    """Return what every refusal must look like."""
    with pytest.raises(LoaderError) as caught:
        AddressPolicy([]).check("example.org", 80, ["10.0.0.1"])
    return caught.value.failure


def written(address: IPv4Address | IPv6Address) -> list[str]:
    """Return an address in all of its spellings, as locations."""
    spelled = spellings_4(address) if isinstance(address, IPv4Address) else spellings_6(address)
    return [f"http://{each}:PORT/" for each in spelled]


NETWORKS = [*FORBIDDEN_4, *FORBIDDEN_6]


def inner(network: IPv4Network | IPv6Network) -> list[IPv4Address | IPv6Address]:
    """Return the ends of a range, and an address between them."""
    return [network[index] for index in sorted({0, min(5, network.num_addresses - 1)})] + [network[-1]]


INNER = [address for network in NETWORKS for address in inner(network)]


def assert_refused_unseen(locations: list[str]) -> None:
    for location, (said, dialled) in zip(
        locations, in_a_sealed_network(locations=locations)["locations"], strict=True
    ):
        assert dialled == [], location
        assert msgspec.json.decode(said, type=Failure) == refusal(), location


def test_no_packet_is_sent_to_a_forbidden_address() -> None:
    # each address in one of its spellings, and each spelling for some address
    assert_refused_unseen(
        [spelled[number % len(spelled)] for number, spelled in enumerate(map(written, INNER))]
    )


@pytest.mark.long
def test_no_packet_is_sent_for_any_spelling_of_a_forbidden_address() -> None:
    assert_refused_unseen([spelled for address in INNER for spelled in written(address)])


def test_without_a_policy_each_forbidden_range_would_be_dialled() -> None:
    networks = [network for network in NETWORKS if str(network) not in UNREACHABLE]
    locations = [written(inner(network)[-2])[0] for network in networks]
    for network, (said, dialled) in zip(networks, in_a_sealed_network(open=locations)["open"], strict=True):
        assert dialled, (network, said)


def test_no_redirect_sends_a_packet_to_a_forbidden_address() -> None:
    targets = [written(network[-1])[0] for network in NETWORKS]
    targets += [form.format(9).encode().decode("latin-1") for form in LOOPBACK]  # UTF-8, as servers send it
    for target, (said, dialled) in zip(targets, in_a_sealed_network(targets=targets)["targets"], strict=True):
        assert dialled == ["127.0.0.1"], target  # the server that is allowed
        assert msgspec.json.decode(said, type=Failure) == refusal(), target


def test_a_loader_with_a_policy_sends_no_packet_and_looks_at_no_proxy() -> None:
    jobs = ["http://169.254.169.254/latest/meta-data/", "http://[::ffff:7f00:1]:PORT/"]
    for said, dialled in in_a_sealed_network(jobs=jobs)["jobs"]:
        assert dialled == []
        assert msgspec.json.decode(said, type=Failure) == refusal()


# --- the service, which takes addresses from strangers


@pytest.fixture(scope="module")
def listener() -> Generator[socket.socket]:
    """Listens on the loopback interface; nothing may connect to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Generator[LiveService]:
    """With the default policy."""
    with (
        fresh_database(postgres) as database_url,
        LiveService(tmp_path_factory.mktemp("service"), database_url, {"IMPORTER_ALLOWED_HOSTS": ""}) as live,
    ):
        yield live


def refused(service: LiveService, listener: socket.socket, url: str) -> Json:
    """Submit a URL; check that it is refused like all others, and that nothing is dialed."""
    ended = service.until_state(service.submit(url)["id"], "failed")
    error = ended["error"]
    expected = refusal()
    assert (error["code"], error["message"], error["hint"]) == (
        expected.code,
        expected.message,
        expected.hint,
    )
    assert len(service.client.get(ended["links"]["attempts"]).json()["attempts"]) == 1  # and not tried again
    with pytest.raises(BlockingIOError):
        listener.accept()
    return ended


@pytest.mark.parametrize(
    "form",
    ["http://localhost:{}/", "http://１２７.０.０.１:{}/", "http://example.org:canary@0x7f.1:{}/?canary"],
)
def test_the_service_fetches_from_public_addresses_only(
    service: LiveService, listener: socket.socket, form: str
) -> None:
    ended = refused(service, listener, form.format(listener.getsockname()[1]))
    assert "canary" not in ended["url"]


@pytest.mark.long
@pytest.mark.parametrize("form", LOOPBACK)
def test_no_spelling_makes_the_service_dial_itself(
    service: LiveService, listener: socket.socket, form: str
) -> None:
    refused(service, listener, form.format(listener.getsockname()[1]))


@pytest.mark.parametrize("form", [form for form in OTHERS if "\\" in form or not form.isprintable()])
def test_an_ambiguous_url_is_refused_by_the_service(
    service: LiveService, listener: socket.socket, form: str
) -> None:
    url = form.format(listener.getsockname()[1])
    answer = service.client.post("/imports", json={"url": url})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_url")


def test_the_service_fetches_from_allowed_hosts_and_not_from_their_redirects(
    tmp_path: Path, database_url: str, sample: bytes, listener: socket.socket
) -> None:
    with HttpServer(sample) as server:
        allowed = {"IMPORTER_ALLOWED_HOSTS": f"files.internal, 127.0.0.0/8:{server.port}"}
        with LiveService(tmp_path, database_url, allowed) as service:
            url = f"http://127.0.0.1:{server.port}/trips.csv"
            inward = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            server.faults = [Fault(status=307, headers={"Location": inward})]
            refused(service, listener, url)
            submitted = service.submit(url, require_verified_length=True)
            assert submitted["require_verified_length"]
            assert service.until_state(submitted["id"], "succeeded")["receipt"]["length_verified"]
