"""The loader with small segments and parts, so that a file of some megabytes has as many of them as one of terabytes.

SMALL_LOADER_LIMITS: more fields of Limits, as JSON.
"""

from __future__ import annotations

import os

import msgspec

from loader.cli.main import main
from loader.limits import Limits

SMALL = {"segment_bytes": 64 * 1024, "one_part_bytes": 0, "min_part_bytes": 256 * 1024}

more = msgspec.json.decode(os.environ.get("SMALL_LOADER_LIMITS", "{}"), type=dict[str, object])
main(limits=msgspec.convert({**SMALL, **more}, Limits))
