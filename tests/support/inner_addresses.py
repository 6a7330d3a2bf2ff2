"""Addresses that nobody may be made to dial: the ranges, and the ways in which one address can be written."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

FORBIDDEN_4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
FORBIDDEN_6 = [
    IPv6Network(text)
    for text in (
        "::",
        "::1",
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/32",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
]

# Spellings of this machine which, without a policy, connect to it; {} is the port.
LOOPBACK = [
    "http://localhost:{}/",
    "http://LocalHost:{}/",
    "http://127.0.0.1:{}/",
    "http://127.1:{}/",
    "http://127.0.1:{}/",
    "http://2130706433:{}/",
    "http://0x7f.1:{}/",
    "http://0x7F000001:{}/",
    "http://0177.0.0.1:{}/",
    "http://017700000001:{}/",
    "http://0:{}/",
    "http://0.0.0.0:{}/",
    "http://１２７.０.０.１:{}/",
    "http://①②⑦.0.0.1:{}/",
    "http://127。0。0。1:{}/",
    "http://ⓛocalhost:{}/",
    "http://example.org@127.0.0.1:{}/",
    "http://example.org:80@127.0.0.1:{}/",
    "http://127.0.0.1:{}#@example.org/",
    "http://127.0.0.1:{}?@example.org/",
    "https://127.0.0.1:{}/",
]
LOOPBACK_6 = [
    "http://[::1]:{}/",
    "http://[0:0:0:0:0:0:0:1]:{}/",
    "http://[::]:{}/",
    "http://[::ffff:7f00:1]:{}/",
    "http://[::FFFF:127.0.0.1]:{}/",
]
# What is no address, or leads somewhere only in some networks.
OTHERS = [
    "http://[::127.0.0.1]:{}/",
    "http://[64:ff9b::7f00:1]:{}/",
    "http://[64:ff9b:1::7f00:1]:{}/",
    "http://[2002:7f00:1::]:{}/",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]:{}/",
    "http://[fe80::1]:{}/",
    "http://[fe80::1%25lo]:{}/",
    "http://169.254.169.254:{}/latest/meta-data/",
    "http://[fd00:ec2::254]:{}/latest/meta-data/",
    "http://example.org\\@127.0.0.1:{}/",
    "http://127.0.0.1:{}\\@example.org/",
    "http:\\\\127.0.0.1:{}/",
    "http://127.0.0.1\r\n:{}/",
    "http://127.0.0.1:{}/\r\nHost: example.org",
    "http://127.0.0.1%0d%0a:{}/",
    "http://127.0.0.1\t:{}/",
    "http://127.0.0.1\u00ad:{}/",
    "http://%31%32%37.0.0.1:{}/",
    "http://127..1:{}/",
    "http:127.0.0.1:{}/",
    "//127.0.0.1:{}/",
    "gopher://127.0.0.1:{}/",
]


def spellings_4(address: IPv4Address) -> Iterator[str]:
    number, (a, b, c, d) = int(address), address.packed
    yield str(address)
    yield str(address).translate({ord("0") + digit: ord("０") + digit for digit in range(10)})
    yield str(number)
    yield hex(number)
    yield f"0{number:o}"
    yield f"{a:#x}.{b:#x}.{c:#x}.{d:#x}"
    yield f"0{a:o}.0{b:o}.0{c:o}.0{d:o}"
    yield f"{a}.{number & 0xFFFFFF}"
    yield f"{a:#X}.0{b:o}.{number & 0xFFFF}"


def spellings_6(address: IPv6Address) -> Iterator[str]:
    dotted_end = f"{address.exploded[:30]}{IPv4Address(address.packed[12:])}"
    for text in (str(address), address.exploded, dotted_end):
        yield f"[{text}]"
        yield f"[{text.upper()}]"
