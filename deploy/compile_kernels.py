"""Run while the image is built: compiles into NUMBA_CACHE_DIR all that `loader run` and `loader sample` would compile."""

from __future__ import annotations

import io

from loader.compiled import load_kernel
from loader.sample import write_sample


def main() -> None:
    """Ask for both kernels, which keep themselves."""
    load_kernel()
    write_sample(io.BytesIO(), rows=1, seed=1)


if __name__ == "__main__":
    main()
