"""Damaged files through the whole loader: each ends as PostgreSQL's own COPY would, or in a failure that names its place.

MUTATION_SEED is the seed of the long loop, MUTATION_FILES how many files it makes, MUTATION_FIRST the number of the first. A
file, the way it is loaded and the loader's sizes follow from seed and number.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.support.loader_process import assert_nothing_is_left, fresh_database
from tests.support.mutation import mutated_file
from tests.support.whole_loader import WholeLoader, whole_loader

# Bytes of a segment and of the head that the probe sees: files of up to 10 KB are cut often, or rarely, or not at all.
LANES = [(2_048, 1_024), (1_024, 65_536), (8_192, 8_192)]
LOOP_FILES = 10_000
SHRINKABLE_FILES = 600


@contextmanager
def lane(number: int, folder: Path, postgres: str) -> Generator[WholeLoader]:
    """Yield a loader of these sizes, with its own folder and database, which are removed in the end."""
    folder = folder / f"lane-{number}"
    folder.mkdir()
    with fresh_database(postgres) as url:
        with whole_loader(folder, url, *LANES[number]) as loader:
            yield loader
        assert_nothing_is_left(url)


def check_file(loader: WholeLoader, seed: str) -> str:
    random = Random(seed)
    csv = mutated_file(random)
    try:
        return loader.check(csv, random)
    except BaseException as error:
        error.add_note(f"the file of {seed}: {csv!r}")
        raise


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LANES)))
def test_a_few_damaged_files_end_as_postgres_would(number: int, tmp_path: Path, postgres: str) -> None:
    with lane(number, tmp_path, postgres) as loader:
        for file in range(15):
            check_file(loader, f"few:{number}:{file}")


@pytest.mark.long
@pytest.mark.timeout(7_200)
def test_every_damaged_file_ends_as_postgres_would(tmp_path: Path, postgres: str) -> None:
    seed = os.environ.get("MUTATION_SEED") or secrets.token_hex(4)
    first = int(os.environ.get("MUTATION_FIRST", "0"))
    count = int(os.environ.get("MUTATION_FILES", LOOP_FILES))
    print(f"\nMUTATION_SEED={seed} MUTATION_FIRST={first} MUTATION_FILES={count}", flush=True)
    began = time.monotonic()
    failed = threading.Event()
    ends = Counter[str]()
    reasons = Counter[str]()

    def work(number: int) -> None:
        with lane(number, tmp_path, postgres) as loader:
            for file in range(first, first + count):
                if file % len(LANES) == number and not failed.is_set():
                    ends[check_file(loader, f"{seed}:{file}")] += 1
            reasons.update(loader.reasons_seen)

    with ThreadPoolExecutor(len(LANES)) as threads:
        for done in as_completed([threads.submit(work, number) for number in range(len(LANES))]):
            if done.exception() is not None:
                failed.set()
            done.result()
    print(f"{ends.total():,} files in {time.monotonic() - began:.0f} s: {dict(ends)}")
    print(f"rejects: {dict(reasons)}")
    assert ends.total() == count


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_a_damaged_file_that_hypothesis_shrinks_ends_as_postgres_would(tmp_path: Path, postgres: str) -> None:
    with lane(0, tmp_path, postgres) as loader:

        @settings(
            max_examples=SHRINKABLE_FILES,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            print_blob=True,
        )
        @given(st.randoms(use_true_random=False))
        def check(random: Random) -> None:
            csv = mutated_file(random)
            note(repr(csv))
            loader.check(csv, random)

        check()
