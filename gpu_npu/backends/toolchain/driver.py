"""The CUDA version that the NVIDIA driver of this machine supports, and the extra of this package that fits it.

    python gpu_npu/backends/toolchain/driver.py     prints cuda13, cuda12, or nothing

Runs as a file, before anything is installed: the standard library is all it needs.
"""

from __future__ import annotations

import ctypes
import sys

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
EXTRAS = {13: "cuda13", 12: "cuda12"}
"""CUDA major version of the driver, at least -> extra."""


def cuda_version() -> tuple[int, int] | None:
    """(major, minor) of the newest CUDA that the driver supports; None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return version.value // 1000, version.value % 1000 // 10


def extra() -> str:
    """The newest extra that the driver can run, or "" where there is none."""
    version = cuda_version()
    return next((name for major, name in EXTRAS.items() if version and version[0] >= major), "")


if __name__ == "__main__":
    print(extra())
