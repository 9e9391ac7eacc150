"""The limits of a device, measured in this run: copy rate, and additions a second to random places (RED).

    python -m profiling.probe [--backend cuda] [--device N] [--quick] [--budget SECONDS] [--json FILE]

RED: one integer atomic addition whose result nobody reads, into accumulators of 4 or 8 bytes that take 0.5 MB to 1 GB
together; at random, and in the order of rows of 1,024 synapses sorted by target. Every sum is checked.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_npu import NpuError
from gpu_npu.backends.devices.base import Device, Launch, Program
from gpu_npu.backends.kernels import BLOCK, Kernel
from profiling import bench, workloads

KERNELS = {"copy_memory": ("*u1", "*u1", "u8"), "red_u32": ("*u4", "u4", "u4", "u8"), "red_u64": ("*u8", "u4", "u4", "u8")}
MEGABYTES = (0.5, 2, 8, 32, 128, 512, 1024)
ROW = 1024
"""Synapses of a row, for the sorted order."""


def program() -> Program:
    """The kernels of probe.cu."""
    text = Path(__file__).with_name("probe.cu").read_text(encoding="utf-8")
    kernels = {name: Kernel(name, "probe.cu", BLOCK, False, codes) for name, codes in KERNELS.items()}
    return Program({"probe.cu": text}, '#include "probe.cu"\n', kernels)


def seconds_of(device: Device, launch: Launch, budget: float) -> tuple[float, int]:
    """(median seconds of a launch, launches in all), in batches that are waited for."""
    device.launch([launch])
    device.wait()
    times: list[float] = []
    batch, launches = 1, 1
    end = time.perf_counter() + budget
    while len(times) < 3 or (len(times) < 15 and time.perf_counter() < end):
        start = time.perf_counter()
        device.launch([launch] * batch)
        device.wait()
        took = time.perf_counter() - start
        launches += batch
        if took < 0.005 and batch < 64:  # waiting would count too much
            batch *= 2
            continue
        times.append(took / batch)
    return float(np.median(times)), launches


def copy_rate(device: Device, megabytes: float, budget: float) -> dict[str, Any]:
    """Bytes read plus bytes written."""
    quads = int(megabytes * 2**20) // 16
    source, target = (device.alloc(4 * quads, np.uint32) for _ in range(2))
    numbers: Any = np.random.default_rng(0).integers(0, 2**32, 4 * quads, dtype=np.uint32)
    device.upload(source, numbers)
    seconds, _ = seconds_of(device, Launch("copy_memory", (source, target, np.uint64(quads))), budget)
    copied = np.empty_like(numbers)
    device.download(target, copied)
    device.wait()
    device.free(source)
    device.free(target)
    if not np.array_equal(copied, numbers):
        raise bench.Wrong("the copy is not what was copied")
    return {"probe": "copy", "megabytes": megabytes, "gigabytes_per_s": 32e-9 * quads / seconds}


def red_rate(device: Device, dtype: Any, megabytes: float, row: int, additions: int, budget: float) -> dict[str, Any]:
    """Additions a second."""
    name, count = f"red_u{8 * np.dtype(dtype).itemsize}", int(megabytes * 2**20) // np.dtype(dtype).itemsize
    sums = device.alloc(count, dtype)
    seconds, launches = seconds_of(device, Launch(name, (sums, np.uint32(count), np.uint32(row), np.uint64(additions))), budget)
    host = np.empty(count, dtype)
    device.download(sums, host)
    device.wait()
    device.free(sums)
    if int(host.sum(dtype=np.uint64)) != launches * additions:
        raise bench.Wrong(f"{name}: additions were lost")
    order = "random" if row == 1 else "rows"
    return {"probe": f"{name} {order}", "megabytes": megabytes, "additions_per_s": additions / seconds}


def run(device: Device, *, quick: bool, budget: float) -> list[dict[str, Any]]:
    """Every probe; a footprint that the device has no room for is left out."""
    top, additions = (8.0, 2**18) if quick else (1024.0, 2**27)
    free = device.memory()[0]
    sizes = [size for size in MEGABYTES if size <= top and size * 2**20 < free / 4]
    probes: list[Callable[[float], dict[str, Any]]] = [lambda part: copy_rate(device, sizes[-1], part)]
    for size in sizes:
        for dtype in (np.uint32, np.uint64):
            for row in (1, ROW):
                probes.append(functools.partial(red_rate, device, dtype, size, row, additions))
    return [probe(budget / len(probes)) for probe in probes]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--backend", choices=("cuda", "cpu", "emulated"), default="cuda", help="(%(default)s)")
    parser.add_argument("--device", type=int, help="number of the GPU")
    parser.add_argument("--quick", action="store_true", help="8 MB at most")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for all (%(default)s)")
    parser.add_argument("--commit", help="where there is no repository to ask")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    try:
        facts = workloads.facts(options.backend, options.device, options.commit)
        device = workloads.open_device(options.backend, options.device, program())
        rows = run(device, quick=options.quick, budget=options.budget)
        device.close()
    except (NpuError, bench.Wrong) as error:
        print(f"Error: {error}".splitlines()[0], file=sys.stderr)
        return 1
    for row in rows:
        rate = f"{row['gigabytes_per_s']:,.1f} GB/s" if "gigabytes_per_s" in row else f"{1e-9 * row['additions_per_s']:.3f} G additions/s"
        print(f"{row['probe']:>16}, {row['megabytes']:>6g} MB: {rate}")
    if options.json:
        bench.write(options.json, {"benchmark": "probe", **facts, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
