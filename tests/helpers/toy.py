"""The toy kernels of kernels/toy.cu as a Program."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpu_npu.backends.kernels import Kernel, Program

ARGUMENTS = {
    "by_value": ("state", "u4", "f4", "u8"),
    "increment": ("*u4", "u8"),
    "neighbour": ("*u4", "*u4", "u8"),
    "is_null": ("*u4", "*u1"),
    "extent": ("*u4",),
    "order_of_threads": ("*u4", "*u4"),
    "multiply": ("*f4", "*f4", "*f4", "u8"),
    "multiply_add": ("*f4", "*f4", "*f4", "*f4", "u8"),
    "atomics": ("*i4", "*u4", "*u8", "*u4", "u8"),
    "intrinsics": ("*u4",),
    "warp_sums": ("*i4", "*i4"),
    "shuffles": ("*i4",),
    "divergent_halves": ("*i4",),
    "early_exit": ("*i4",),
    "block_scan": ("*u4", "*u4", "*u4", "u8"),
    "shared_histogram": ("*u4", "*u4", "*u4", "u8"),
    "meet_in_rounds": ("*u4", "*u4", "*u8", "u8"),
    "deadlock": ("*i4",),
    "deadlock_of_one_block": ("*u4", "*u8"),
    "wrong_mask": ("*i4",),
    "missing_atomic": ("*u4",),
    "dynamic_shared_out_of_bounds": ("*u4",),
    "out_of_bounds": ("*u4",),
    "before_the_start": ("*u4",),
    "shared_out_of_bounds": ("*u4",),
}
WIDE = ("shared_histogram", "dynamic_shared_out_of_bounds", "meet_in_rounds", "deadlock_of_one_block")
TOY = np.dtype([("n", "u8"), ("out", "u8"), ("in", "u8"), ("scale", "f4"), ("padding", "u4", 99)], align=True)
UNIT = '#include "toy.cu"\n'


def program() -> Program:
    """All toy kernels."""
    text = (Path(__file__).parents[1] / "kernels" / "toy.cu").read_text(encoding="utf-8")
    kernels = {name: Kernel(name, "toy.cu", 128, False, codes, name in WIDE) for name, codes in ARGUMENTS.items()}
    return Program({"toy.cu": text}, UNIT, kernels)
