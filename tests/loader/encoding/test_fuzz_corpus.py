"""Inputs that coverage-guided fuzzing has found: they take every branch of blocks, encoder and probe that it reached."""

from __future__ import annotations

from tests.support.fuzz_input import check_input, corpus


def test_every_fuzzed_input_is_encoded_as_row_by_row() -> None:
    for number, data in enumerate(corpus()):
        try:
            check_input(data)
        except BaseException as error:
            error.add_note(f"line {number + 1} of fuzz_corpus.txt: {data!r}")
            raise
