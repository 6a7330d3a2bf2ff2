"""The Host header: names that clients use are accepted, names that an attacker may register are refused."""

from __future__ import annotations

import pytest

from importer.api.host_check import is_known_host

NAMES = frozenset({"importer.example.org", "importer.jobs", "*.apps.example.net"})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:8000",
        "10.1.2.3:8000",  # a probe of Kubernetes
        "[::1]:8000",
        "[fd00::17]",
        "localhost:8000",
        "LOCALHOST",
        "localhost.",
        "importer",
        "large_file_importer:80",  # Docker Compose
        "importer.localhost",
        "build-7.local",
        "host.docker.internal:8000",
        "importer.jobs.svc:8000",
        "importer.jobs.svc.cluster.local",
        "importer.jobs",
        "importer.example.org",
        "Importer.Example.org.:443",
        "importer.apps.example.net",
        "7.importer.apps.example.net:8443",
    ],
)
def test_a_known_host_is_accepted(host: str) -> None:
    assert is_known_host(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "example.org",
        "importer.example.org.evil.example",
        "apps.example.net",  # the wildcard is for names below it
        ".apps.example.net",
        "evilapps.example.net",
        "importer.apps.example.net.evil.example",
        "*.apps.example.net.evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "local.evil.example:80:80",
        "evil.example@127.0.0.1",
        "127.0.0.1,evil.example",
        "http://127.0.0.1/",
        "evil.example#.local",
        "a b",
        "<script>",
        "evil。example",
        ".",
        "[evil.example]",
    ],
)
def test_a_host_that_anyone_may_register_is_refused(host: str) -> None:
    assert not is_known_host(host, NAMES)
