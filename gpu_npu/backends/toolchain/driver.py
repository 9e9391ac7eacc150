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


def ask() -> tuple[tuple[int, int], tuple[str, ...]] | None:
    """((major, minor) of the newest CUDA that the driver supports, names of its GPUs); None where there is no driver."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    version, count, gpus = ctypes.c_int(), ctypes.c_int(), []
    driver.cuDriverGetVersion(ctypes.byref(version))
    if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
        for index in range(count.value):
            name, device = ctypes.create_string_buffer(128), ctypes.c_int()
            if driver.cuDeviceGet(ctypes.byref(device), index) == 0:
                driver.cuDeviceGetName(name, len(name), device)
                gpus.append(name.value.decode(errors="replace"))
    return (version.value // 1000, version.value % 1000 // 10), tuple(gpus)


def extra() -> str:
    """The newest extra that the driver can run, or "" where there is none, or no GPU."""
    version, gpus = ask() or ((0, 0), ())
    return next((name for major, name in EXTRAS.items() if gpus and version[0] >= major), "")


if __name__ == "__main__":
    print(extra())
