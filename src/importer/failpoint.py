"""Where a test can make the service die or be told to stop: numbered steps, as the loader has them.

`IMPORTER_FAILPOINT=crash@7`, as failpoint.py of the loader has it. A loader that the service starts does not inherit it.
"""

from __future__ import annotations

from loader.failpoint import armed_by

hit = armed_by("IMPORTER_FAILPOINT")
