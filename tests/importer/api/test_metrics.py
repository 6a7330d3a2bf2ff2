"""What the control DB learns about published rows is counted, also when it learns it late."""

from __future__ import annotations

from pathlib import Path

import pytest

from importer.api.metrics import MeasuredStore, metrics_text
from importer.model import State
from tests.support.store_driver import brought_to, receipt


def metric(name: str) -> float:
    text = metrics_text(dict.fromkeys(State, 0), is_database_up=True).decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.mark.anyio
async def test_the_rows_of_a_failed_import_that_turns_out_published_are_counted(tmp_path: Path) -> None:
    store = await MeasuredStore.open(tmp_path / "importer.sqlite")
    try:
        failed = await brought_to(store, State.FAILED)
        rows = metric("importer_rows_total")
        ends = metric('importer_import_duration_seconds_count{state="failed"}')
        proof = receipt(failed)
        assert await store.mark_published(failed.id, proof) is not None
        assert metric("importer_rows_total") == rows + proof.rows_published
        assert await store.mark_published(failed.id, proof) is None  # it is known by now
        assert metric("importer_rows_total") == rows + proof.rows_published
        assert metric('importer_import_duration_seconds_count{state="failed"}') == ends
    finally:
        await store.close()
