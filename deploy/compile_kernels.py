"""Run while the image is built: compiles into NUMBA_CACHE_DIR all that `loader run` and `loader sample` would compile."""

from __future__ import annotations

import io

from loader.cli.sample import write_sample
from loader.kernel.native import load_kernel


def main() -> None:
    """Ask for both kernels, which keep themselves."""
    load_kernel()
    write_sample(io.BytesIO(), rows=1, seed=1)


if __name__ == "__main__":
    main()
