"""`python -m loader.kernel` compiles the kernel into its cache, such as while an image is built."""

from __future__ import annotations

from loader.kernel.object_file import load_object_kernel

if __name__ == "__main__":
    load_object_kernel()
