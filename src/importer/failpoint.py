"""Numbered steps at which a test can crash or stop the service: `IMPORTER_FAILPOINT=crash@7`, see the loader's failpoint.py.

Loaders that the service starts do not inherit the variable.
"""

from __future__ import annotations

from loader.failpoint import failpoint_of

hit = failpoint_of("IMPORTER_FAILPOINT")
