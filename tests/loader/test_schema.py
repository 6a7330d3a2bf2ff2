"""Each column kind is complete: Postgres type, encoder, boundary values. The kernel: test_encode_rows.py."""

from __future__ import annotations

import pytest

from loader.encoding.fields import encode_field
from loader.schema import POSTGRES_TYPES, Kind
from tests.support.boundary_values import BOUNDARY_VALUES, USUAL_FIELDS


@pytest.mark.parametrize("kind", Kind)
def test_each_column_kind_has_a_type_an_encoder_and_boundary_values(kind: Kind) -> None:
    assert POSTGRES_TYPES[kind]
    assert BOUNDARY_VALUES[kind]
    assert isinstance(encode_field(kind, USUAL_FIELDS[kind]), bytes)
