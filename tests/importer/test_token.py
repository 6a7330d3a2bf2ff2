"""A token is read from a file or a variable, and a message about an invalid one does not quote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from importer.token import InvalidToken, read_token, valid_token


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "\r\n s3cret \r\n", "a-._~+/b=="])
def test_a_token_is_read_without_the_white_space_around_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    assert read_token(tmp_path / "token") == content.strip()


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two canaries", b"canary\ncanary", b"canary\xff", b"canary,"]
)
def test_a_file_without_a_token_is_refused_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(InvalidToken, match=str(path)) as caught:
        read_token(path)
    assert "canary" not in str(caught.value)


def test_the_message_about_an_unreadable_file_has_its_path_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidToken, match=f"{tmp_path}/none can't be read: No such file"):
        read_token(tmp_path / "none")


def test_the_message_about_an_invalid_variable_names_it() -> None:
    with pytest.raises(InvalidToken, match=r"^IMPORTER_TOKEN must have one token") as caught:
        valid_token("ca nary", "IMPORTER_TOKEN")
    assert "nary" not in str(caught.value)
