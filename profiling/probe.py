"""The limits of a device, measured in this run: what bursts are held against.

    python -m profiling.probe [--backend cuda] [--device N] [--quick] [--budget SECONDS] [--json FILE]

In this order, so that a run that is cut short has the most important ones:

    red_u32, red_u64       integer additions whose result nobody reads (RED), into accumulators of 0.5 MB to 1 GB: "random";
                           "rows", in the order of rows of 1,024 synapses sorted by target; "merge", one behind the other
    atom_u64               the same additions where the compiler makes fetches of them
    shared_u32, _u64       additions of a block to its own slice of 200 KB in shared memory, random; "cell": of 32 bits whose
    shared_cell            result is looked at. On a CPU the slice is memory of the worker's own
    barrier                all blocks of a launch meet
    launch, graph          one kernel, or five in a graph, from Python, and a count of theirs back in pinned memory
    clock                  the smallest step of the clock that bursts are stamped with
    told, scattered        bytes a second that kernels write to memory of the host, side by side and one by one
    read, copy             bytes a second of the device's memory; of a copy those read and those written

What a device cannot do is "unavailable", with the reason. Every sum, count and copy is checked: a probe that did not do
its work fails. Beside each figure stands what was expected of an H200 before any was measured (profiling/NOTES.md).
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gpu_npu import NpuError
from gpu_npu.backends import kernels as project
from gpu_npu.backends.devices.base import Device, Launch
from gpu_npu.backends.kernels import BLOCKS, Kernel, Program
from gpu_npu.limits import cpu_workers
from profiling import workloads
from profiling.workloads import Wrong, write

Row = dict[str, Any]
KERNELS = {
    "red_u32": ("*u4", "u4", "u4", "u8"),
    "red_u64": ("*u8", "u4", "u4", "u8"),
    "atom_u64": ("*u8", "u4", "u4", "u8"),
    "copy_memory": ("*u1", "*u1", "u8"),
    "read_memory": ("*u1", "*u8", "u8"),
    "count_launches": ("*u8", "*u8"),
    "tell_host": ("*u4", "u4", "u4"),
}
WIDE_KERNELS = {
    "shared_u32": ("*u8", "*u1", "u4", "u8", "u8"),
    "shared_u64": ("*u8", "*u1", "u4", "u8", "u8"),
    "shared_cell": ("*u8", "*u1", "u4", "u8", "u8"),
    "meet": ("*u8", "*u8", "*u8", "*u8", "u4"),
    "read_clock": ("*u8", "u4"),
}
MEGABYTES = (0.5, 2, 8, 32, 128, 512, 1024)
ORDERS = {"merge": 0, "random": 1, "rows": 1024}
"""Name -> what probe.cu calls `row`."""
SLICE = 200 * 1024
"""Bytes of a block's slice."""
TERM = {"shared_u32": 3, "shared_u64": 3, "shared_cell": 2**28 + 1}
"""What is added; the last one wraps now and then."""
LOOKED_AT, MEETINGS = 8, 500
"""Meetings that are looked at in probe.cu, and those that are timed."""
MOST_BLOCKS = 4096
IN_GRAPH = 5
UNITS = {
    "additions_per_s": (1e-9, "G additions/s"),
    "gigabytes_per_s": (1.0, "GB/s"),
    "microseconds": (1.0, "µs"),
    "nanoseconds": (1.0, "ns"),
}

PREDICTED: dict[str, dict[float | None, float]] = {
    "red_u32 random": {0.5: 120e9, 2: 120e9, 8: 120e9, 32: 110e9, 128: 45e9, 512: 32e9, 1024: 30e9},
    "red_u64 random": {0.5: 120e9, 2: 120e9, 8: 120e9, 32: 110e9, 128: 45e9, 512: 32e9, 1024: 30e9},
    "red_u32 rows": {0.5: 120e9, 2: 120e9, 8: 120e9, 32: 110e9, 128: 45e9, 512: 32e9, 1024: 30e9},
    "red_u64 rows": {0.5: 120e9, 2: 120e9, 8: 120e9, 32: 110e9, 128: 45e9, 512: 32e9, 1024: 30e9},
    "red_u32 merge": {8: 800e9},
    "red_u64 merge": {8: 450e9},
    "atom_u64 random": {8: 60e9},
    "shared_u32": {None: 1000e9},
    "shared_u64": {None: 200e9},
    "shared_cell": {None: 700e9},
    "barrier": {None: 1.3},
    "launch": {None: 15.0},
    "graph": {None: 18.0},
    "clock": {None: 1000.0},
    "told": {None: 45.0},
    "scattered": {None: 6.0},
    "read": {8: 7500.0, 1024: 3900.0},
    "copy": {1024: 4300.0},
}
"""Probe -> megabytes, or None -> figure expected of an H200 (`figure`); NOTES.md says from what. None was measured."""


class Unavailable(Exception):
    """What this device has not."""


def program() -> Program:
    """The kernels of probe.cu."""
    texts = {name: project.sources()[name] for name in ("types.cuh", "device.cuh")}
    texts["probe.cu"] = Path(__file__).with_name("probe.cu").read_text(encoding="utf-8")
    kernels = {name: Kernel(name, "probe.cu", BLOCKS[""], False, codes) for name, codes in KERNELS.items()}
    wide = BLOCKS["WIDE_"]
    kernels |= {name: Kernel(name, "probe.cu", wide, name == "read_clock", codes, True) for name, codes in WIDE_KERNELS.items()}
    return Program(texts, '#include "probe.cu"\n', kernels)


def figure(row: Row) -> tuple[str, float] | None:
    """(key, value) of what a row says; None where it says nothing."""
    return next(((key, row[key]) for key in UNITS if key in row), None)


def repeated(once: Callable[[int], None], budget: float) -> tuple[float, int]:
    """(median seconds of one, how many in all) of `once(count)`, which does something count times and waits for it."""
    once(1)
    times: list[float] = []
    batch, done = 1, 1
    end = time.perf_counter() + budget
    while len(times) < 3 or (len(times) < 15 and time.perf_counter() < end):
        start = time.perf_counter()
        once(batch)
        took = time.perf_counter() - start
        done += batch
        if took < 0.005 and batch < 64:  # waiting would count too much
            batch *= 2
            continue
        times.append(took / batch)
    return float(np.median(times)), done


def seconds_of(device: Device, launch: Launch, budget: float) -> tuple[float, int]:
    """(median seconds of a launch, launches in all), in batches that are waited for."""

    def once(count: int) -> None:
        device.launch([launch] * count)
        device.wait()

    return repeated(once, budget)


# -- the probes: each takes the device and its seconds, and returns a row ------------------------------------------------
def red_rate(device: Device, budget: float, *, name: str, order: str, megabytes: float, additions: int) -> Row:
    dtype = np.dtype(np.uint32 if name.endswith("u32") else np.uint64)
    count = int(megabytes * 2**20) // dtype.itemsize
    sums = device.alloc(count, dtype)
    launch = Launch(name, (sums, np.uint32(count), np.uint32(ORDERS[order]), np.uint64(additions)))
    seconds, launches = seconds_of(device, launch, budget)
    total = int(device.fetched(sums, count).sum(dtype=np.uint64))
    device.free(sums)
    if total != launches * additions:
        raise Wrong(f"{name}: additions were lost")
    return {"additions_per_s": additions / seconds}


def slice_rate(device: Device, budget: float, *, name: str, additions: int) -> Row:
    total = device.alloc(1, np.uint64)
    workers = cpu_workers()[0] if device.name == "cpu" else 0  # only a CPU has no shared memory
    spare = device.alloc(SLICE * workers, np.uint8)
    launch = Launch(name, (total, spare, np.uint32(SLICE), np.uint64(TERM[name]), np.uint64(additions)))
    seconds, launches = seconds_of(device, launch, budget)
    found = int(device.fetched(total, 1)[0])
    device.free(spare)
    device.free(total)
    if found != launches * additions * TERM[name] % 2**64:
        raise Wrong(f"{name}: additions were lost")
    return {"additions_per_s": additions / seconds}


def barrier(device: Device, budget: float) -> Row:
    """The time of a launch that meets many times, less that of one that meets a few times."""
    arrived, came, wrong, meetings = (device.alloc(count, np.uint64) for count in (1, MOST_BLOCKS, 1, 1))
    few, many = LOOKED_AT, LOOKED_AT + MEETINGS
    short, long = (Launch("meet", (arrived, came, wrong, meetings, np.uint32(times))) for times in (few, many))
    least, first = seconds_of(device, short, budget / 2)
    most, then = seconds_of(device, long, budget / 2)
    found = int(device.fetched(meetings, 1)[0]), int(device.fetched(wrong, 1)[0])
    device.release(arrived, came, wrong, meetings)
    if found != (first * few + then * many, 0):
        raise Wrong(f"meet: {found[0]} meetings, and in {found[1]} of those looked at a block had gone on alone")
    return {"microseconds": 1e6 * max(most - least, 0.0) / MEETINGS}


def launch_time(device: Device, budget: float) -> Row:
    """One launch, its count in host memory, and the wait for it."""
    total, (told, host) = device.alloc(1, np.uint64), device.mapped(1, np.uint64)
    launches = [Launch("count_launches", (total, told), single=True)]

    def once(count: int) -> None:
        for _ in range(count):
            device.launch(launches)
            device.wait()

    seconds, done = repeated(once, budget)
    device.release(total)
    if int(host[0]) != done:
        raise Wrong(f"launch: the count came back as {int(host[0])}, not {done}")
    return {"microseconds": 1e6 * seconds}


def graph_time(device: Device, budget: float) -> Row:
    """Five launches in a graph, their count in host memory, and the wait for it."""
    if device.name != "cuda":
        raise Unavailable("this device has no graphs")
    cupy = importlib.import_module("cupy")
    total, (told, host) = device.alloc(1, np.uint64), device.mapped(1, np.uint64)
    launches = [Launch("count_launches", (total, told), single=True) for _ in range(IN_GRAPH)]
    device.wait()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        device.launch(launches)
        graph = stream.end_capture()

        def once(count: int) -> None:
            for _ in range(count):
                graph.launch(stream)
                stream.synchronize()

        seconds, done = repeated(once, budget)
    device.release(total)
    if int(host[0]) != IN_GRAPH * done:
        raise Wrong(f"graph: the count came back as {int(host[0])}, not {IN_GRAPH * done}")
    return {"microseconds": 1e6 * seconds}


def clock(device: Device, _: float) -> Row:
    """Of readings one behind the other."""
    readings = device.alloc(4096, np.uint64)
    device.launch([Launch("read_clock", (readings, np.uint32(readings.size)), single=True)])
    steps = np.diff(device.fetched(readings, readings.size).astype(np.int64))
    device.free(readings)
    if (steps < 0).any() or not steps.any():
        raise Wrong("the clock does not go on")
    return {"nanoseconds": int(steps[steps > 0].min())}


def read_rate(device: Device, budget: float, *, megabytes: float) -> Row:
    quads = int(megabytes * 2**20) // 16
    words = np.random.default_rng(0).integers(0, 2**32, 4 * quads, dtype=np.uint32)
    with device.scratch() as scratch:
        source, total = scratch.uploaded(words.view(np.uint8)), scratch.alloc(1, np.uint64)
        seconds, launches = seconds_of(device, Launch("read_memory", (source, total, np.uint64(quads))), budget)
        found = int(device.fetched(total, 1)[0])
    if found != launches * int(words.sum(dtype=np.uint64)) % 2**64:
        raise Wrong("read_memory: not all was read")
    return {"gigabytes_per_s": 16e-9 * quads / seconds}


def copy_rate(device: Device, budget: float, *, megabytes: float) -> Row:
    """Bytes read and bytes written."""
    quads = int(megabytes * 2**20) // 16
    numbers = np.random.default_rng(0).integers(0, 2**32, 4 * quads, dtype=np.uint32)
    with device.scratch() as scratch:
        source, target = scratch.uploaded(numbers), scratch.alloc(4 * quads, np.uint32)
        seconds, _ = seconds_of(device, Launch("copy_memory", (source, target, np.uint64(quads))), budget)
        copied = device.fetched(target, 4 * quads)
    if not np.array_equal(copied, numbers):
        raise Wrong("the copy is not what was copied")
    return {"gigabytes_per_s": 32e-9 * quads / seconds}


def host_rate(device: Device, budget: float, *, apart: int, count: int) -> Row:
    told, host = device.mapped(count, np.uint32)
    seconds, _ = seconds_of(device, Launch("tell_host", (told, np.uint32(count), np.uint32(apart))), budget)
    places = np.arange(count, dtype=np.uint64) * apart % count
    if not np.array_equal(host[places], np.arange(1, count + 1)):
        raise Wrong("tell_host: the host was told something else")
    return {"gigabytes_per_s": 4e-9 * count / seconds}


Probe = Callable[[Device, float], Row]


def probes(device: Device, *, quick: bool) -> Iterator[tuple[str, float | None, Probe]]:
    """(name, megabytes, probe) in turn; a footprint that the device has no room for is left out."""
    top, additions = (8.0, 2**18) if quick else (1024.0, 2**27)
    free = device.free_and_total()[0]
    sizes = [size for size in MEGABYTES if size <= top and size * 2**20 < free / 4]
    for order in ("random", "rows", "merge"):
        for size in sizes if order != "merge" else [8.0]:
            for name in ("red_u32", "red_u64"):
                probe = functools.partial(red_rate, name=name, order=order, megabytes=size, additions=additions)
                yield f"{name} {order}", size, probe
    yield "atom_u64 random", 8.0, functools.partial(red_rate, name="atom_u64", order="random", megabytes=8.0, additions=additions)
    for name in TERM:
        yield name, None, functools.partial(slice_rate, name=name, additions=additions)
    for name, probed in (("barrier", barrier), ("launch", launch_time), ("graph", graph_time), ("clock", clock)):
        yield name, None, probed
    for name, apart in (("told", 1), ("scattered", 1031)):
        yield name, None, functools.partial(host_rate, apart=apart, count=2**14 if quick else 2**20)
    for size in sorted({8.0, sizes[-1]}):  # of the cache, of the memory
        yield "read", size, functools.partial(read_rate, megabytes=size)
    yield "copy", sizes[-1], functools.partial(copy_rate, megabytes=sizes[-1])


def run(
    device: Device, *, quick: bool, budget: float, save: Callable[[list[Row]], None] = lambda rows: None, only: tuple[str, ...] = ("",)
) -> list[Row]:
    """A row for each probe whose name begins with one of `only`, saved as they come."""
    rows: list[Row] = []
    wanted = [probed for probed in probes(device, quick=quick) if probed[0].startswith(only)]
    for name, size, probe in wanted:
        row: Row = {"probe": name} | ({} if size is None else {"megabytes": size})
        try:
            row |= {"status": "ran", **probe(device, budget / len(wanted))}
        except Unavailable as reason:
            row |= {"status": "unavailable", "problem": str(reason)}
        if device.name == "cuda" and size in (expected := PREDICTED.get(name, {})):
            row["predicted_h200"] = expected[size]
        rows.append(row)
        save(rows)
    return rows


def table(report: Row) -> Table:
    told = Table(title=f"{report['device']}, commit {report['commit'][:12]}, {report['date']}", title_justify="left")
    for name in ("probe", "MB", "measured", "", "expected of an H200"):
        told.add_column(name, justify="left" if name in ("probe", "") else "right")
    for row in report["rows"]:
        named = (row["probe"], f"{row['megabytes']:g}" if "megabytes" in row else "")
        if (found := figure(row)) is None:
            told.add_row(*named, row["status"], row["problem"])
            continue
        factor, unit = UNITS[found[0]]
        expected = f"{factor * row['predicted_h200']:,.4g}" if "predicted_h200" in row else ""
        told.add_row(*named, f"{factor * found[1]:,.4g}", unit, expected)
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--backend", choices=("cuda", "cpu", "emulated"), default="cuda", help="(%(default)s)")
    parser.add_argument("--device", type=int, help="number of the GPU")
    parser.add_argument("--quick", action="store_true", help="8 MB at most")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for all (%(default)s)")
    parser.add_argument("--commit", help="where there is no repository to ask")
    parser.add_argument("--json", type=Path, help="write the figures here, probe by probe")
    options = parser.parse_args(arguments)
    workloads.check_output(parser, options.json)
    try:
        report: Row = {"benchmark": "probe", **workloads.facts(options.backend, options.device, options.commit), "rows": []}
        device = workloads.open_device(options.backend, options.device, program())

        def save(rows: list[Row]) -> None:
            report["rows"] = rows
            if options.json:
                write(options.json, report)

        run(device, quick=options.quick, budget=options.budget, save=save)
        device.close()
    except (NpuError, Wrong) as error:
        print(f"Error: {error}".splitlines()[0], file=sys.stderr)
        return 1
    Console(width=None if sys.stdout.isatty() else 140).print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
