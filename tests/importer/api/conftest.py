"""A live service, which the tests of one module share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.live_service import LiveService, fresh_database


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Generator[LiveService]:
    """With default settings. A module that needs others has its own."""
    with (
        fresh_database(postgres) as database_url,
        LiveService(tmp_path_factory.mktemp("service"), database_url) as live,
    ):
        yield live
