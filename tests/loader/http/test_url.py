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


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("/two words.csv?a=b c#d e", "/two%20words.csv?a=b%20c"),
        ("  /x.csv \t", "/x.csv"),
        ("/a\r\n b\tc", "/a%20bc"),
        ("/a\x01b\x7f", "/a%01b%7F"),
        ("/caf\xc3\xa9?\xc3\xa9", "/caf%C3%A9?%C3%A9"),  # UTF-8
        ("/caf\xe9?\xe9", "/caf%E9?%E9"),  # Latin-1
        ("/a\xe2\x80\x8bb", "/a%E2%80%8Bb"),  # a character that is not printable
        ("c\\d?e\\f", "/a/c/d?e%5Cf"),
        ('/"<>`{|}^', "/%22%3C%3E%60%7B%7C%7D%5E"),
        ("/100%/a%20b%2Fc", "/100%/a%20b%2Fc"),
        ("?x=[1]", "/a/b?x=[1]"),
    ],
)
def test_raw_characters_of_a_redirect_are_encoded(reference: str, target: str) -> None:
    assert parse_url("https://example.com/a/b").follow(reference).target == target


@pytest.mark.parametrize("reference", ["http://a b/", "//a b/", "//user@\x01/", "http:\\\\a b/"])
def test_a_redirect_to_a_host_with_raw_characters_is_refused(reference: str) -> None:
    with pytest.raises(InvalidUrl):
        parse_url("http://example.com/").follow(reference)


def test_a_redirect_with_a_name_beyond_ascii_leads_to_that_name() -> None:
    address = parse_url("http://example.com/").follow("//m\xc3\xbcller.example/")
    assert address.host == "xn--mller-kva.example"
