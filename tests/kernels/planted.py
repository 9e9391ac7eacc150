"""Runs toy kernels, right ones and wrong ones, under a sanitizer: python planted.py SANITIZER CASE [BUG]"""

from __future__ import annotations

import sys

import numpy as np
from toy import program

from gpu_npu.backends.devices.base import Launch
from gpu_npu.backends.devices.emulated import EmulatedDevice


def scan(device: EmulatedDevice, n: int) -> None:
    """block_scan, more than one round a block."""
    flag, out, count = (device.alloc(size, np.uint32) for size in (n, n, 1))
    device.upload(flag, np.ones(n, np.uint32))
    device.launch([Launch("block_scan", (flag, out, count, np.uint64(n)))])
    device.wait()


def histogram(device: EmulatedDevice) -> None:
    """shared_histogram, in dynamic shared memory."""
    values, counts, nbytes = (device.alloc(size, np.uint32) for size in (500, 4096, 1))
    device.launch([Launch("shared_histogram", (values, counts, nbytes, np.uint64(500)))])
    device.wait()


def main(sanitizer: str, case: str, bug: str = "0") -> None:
    shape = {"block": 1, "blocks": 8} if case == "missing_atomic_between_blocks" else {"block": 64, "blocks": 2}
    if bug != "0":
        shape["blocks"] = 1
    with_bug = EmulatedDevice(**shape, workers=2, sanitize=sanitizer, defines=(f"BUG={bug}",), program=program())
    if case == "scan":
        scan(with_bug, 1000)
    elif case == "clean":
        scan(with_bug, 1000)
        histogram(with_bug)
        values, cells = with_bug.alloc(500, np.uint32), [with_bug.alloc(8, dtype) for dtype in (np.int32, np.uint32, np.uint64)]
        for _ in range(3):
            with_bug.launch([Launch("atomics", (*cells, values, np.uint64(500))), Launch("increment", (values, np.uint64(500)))])
        with_bug.wait()
    else:
        size = {"out_of_bounds": 100, "shared_out_of_bounds": 64}.get(case, 1)
        out = with_bug.alloc(size, np.uint32)
        kernel = "missing_atomic" if case.startswith("missing_atomic") else case
        with_bug.launch([Launch(kernel, (out,))])
        with_bug.wait()
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
