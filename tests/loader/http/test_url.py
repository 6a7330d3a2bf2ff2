from __future__ import annotations

import pytest

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.http.url import InvalidUrl, parse_url
from loader.source.open import open_source


@pytest.mark.parametrize(
    ("text", "location", "target"),
    [
        ("http://example.com", "http://example.com/", "/"),
        ("HTTPS://Example.COM:443/a%20b?q=1#f", "https://example.com/a%20b", "/a%20b?q=1"),
        ("http://example.com:8080/x/../y", "http://example.com:8080/x/../y", "/x/../y"),
        ("http://u:p@[2001:DB8::1]:81/", "http://[2001:db8::1]:81/", "/"),
        ("https://müller.example/ä?ü", "https://xn--mller-kva.example/%C3%A4", "/%C3%A4?%C3%BC"),
        ("http://example.com?q", "http://example.com/", "/?q"),
        # as browsers resolve them: https://www.unicode.org/reports/tr46/#Deviations
        ("http://faß.example/", "http://xn--fa-hia.example/", "/"),
        ("http://βόλος.example/", "http://xn--nxasmm1c.example/", "/"),
        ("http://Bücher。Example/", "http://xn--bcher-kva.example/", "/"),
        ("http://☕.example/", "http://xn--53h.example/", "/"),
        ("http://１２７.0.0.1/", "http://127.0.0.1/", "/"),
    ],
)
def test_a_url_is_encoded_for_the_wire(text: str, location: str, target: str) -> None:
    address = parse_url(text)
    assert (address.location, address.target) == (location, target)


@pytest.mark.parametrize(
    "text",
    [
        "http://example.com/a\r\nX-Injected: 1",
        "http://example.com/a\nb",
        "http://example.com/a\tb",
        "http://example.com/a b",
        "http://example.com/\x00",
        "http://example.com/\x85",
        "http://example.com\\@localhost/",
        "http://example.com:port/",
        "http://example.com:99999/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http:///path",
        "http://.example.com/",
        "http://\u00ad.example.com/",
        "http://\ufffd.example.com/",
        "http://ab％c.example.com/",
        "http://" + "ä" * 60 + ".example/",
        "http://" + "a" * 64 + ".example/",
        "ftp://example.com/x",
        "s3://bucket/key",
        "file:///etc/passwd",
        " http://example.com/",
    ],
)
def test_what_is_no_clean_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidUrl):
        parse_url(text)


@pytest.mark.parametrize("text", ["ftp://canary.example/x", "http://canary.example/a\nb", "s3://canary/key"])
def test_an_invalid_url_is_a_usage_error_that_repeats_nothing_of_it(text: str) -> None:
    with pytest.raises(LoaderError) as caught:
        open_source(text)
    assert caught.value.code is FailureCode.USAGE
    assert "canary" not in caught.value.failure.message


def test_a_url_hides_its_secrets_when_it_is_printed() -> None:
    assert "secret" not in repr(parse_url("http://secret:secret@example.com/?secret#secret"))


def test_a_redirect_keeps_credentials_only_within_the_origin() -> None:
    address = parse_url("https://ann:pw@example.com/a/b")
    assert address.follow("c").authorization == address.authorization
    assert address.follow("c").target == "/a/c"
    assert address.follow("https://example.com:444/").authorization is None
    assert address.follow("//other.example/").authorization is None
