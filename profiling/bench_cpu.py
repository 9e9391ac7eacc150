"""A whole burst on the CPU, side by side in one run: the cpu backend, a burst written by hand in C, and the reference.

    python -m profiling.bench_cpu [--workers N] [--rounds N] [--quick] [--json FILE]

100,000 neurons, 10 M synapses, 1,000 and 20,000 fired a burst. Groups of power neurons fire in turn, so that the rows
of several fired sets are read in rotation. All three compute the same spikes, which is checked. They take turns in short
rounds, so that a slow moment of the machine meets all of them; only the ratios mean anything on a shared machine.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu import NPU, Connectome, Settings
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.executor import DevicePlatform
from gpu_npu.limits import cpu_workers
from profiling.workloads import check_output, write

NEURONS, DEGREE, GROUPS = 100_000, 100, 5
UNREACHABLE = 1e9
COMPILE = ("-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")


def network(fired: int, *, neurons: int = NEURONS, degree: int = DEGREE, seed: int = 0) -> tuple[Connectome, NDArray[np.uint32]]:
    """A random network in which exactly `fired` neurons fire in each burst, and its power neurons.

    Group g of the power neurons starts with a countdown of g and then fires every GROUPS bursts; nothing else can fire.
    """
    rng = np.random.default_rng(seed)
    power = rng.permutation(neurons)[: fired * GROUPS].astype(np.uint32)
    threshold = np.full(neurons, UNREACHABLE, np.float32)
    countdown, period = np.zeros(neurons, np.uint16), np.zeros(neurons, np.uint16)
    threshold[power] = -UNREACHABLE
    countdown[power] = np.repeat(np.arange(GROUPS), fired)
    period[power] = GROUPS - 1
    connectome = Connectome(neurons, neurons * degree, settings=Settings(power_amount=1.0))
    connectome.add_neurons(neurons, threshold=threshold, refractory_countdown=countdown, refractory_period=period, leak_coefficient=0.25)
    count = neurons * degree
    source = np.repeat(np.arange(neurons, dtype=np.uint32), degree)
    target = np.sort(rng.integers(0, neurons, (neurons, degree), dtype=np.uint32), axis=1).ravel()
    weight, psp = (rng.integers(1, 256, count, dtype=np.uint8) for _ in range(2))
    connectome.add_synapses(source, target, weight, psp, rng.random(count) < 0.3)
    return connectome, np.sort(power)


class HandWritten:
    """burst.c over the same network."""

    class Net(ctypes.Structure):
        _fields_ = (
            ("n", ctypes.c_uint32),
            ("threads", ctypes.c_uint32),
            *((name, ctypes.c_void_p) for name in ("row", "target", "weight", "psp", "potential", "threshold", "limit", "leak")),
            *((name, ctypes.c_void_p) for name in ("period", "countdown", "power", "touched", "sum")),
            ("power_amount", ctypes.c_float),
        )

    def __init__(self, connectome: Connectome, power: NDArray[np.uint32], threads: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "burst.so"
            source = Path(__file__).with_name("burst.c")
            subprocess.run([os.environ.get("CC", "cc"), *COMPILE, str(source), "-o", str(library)], check=True)
            self._burst = ctypes.CDLL(str(library)).burst
        n, neurons, synapses = connectome.neuron_capacity, connectome.neurons, connectome.synapses
        flag = np.zeros(n, np.uint8)
        flag[power] = 1
        self._arrays = {
            "row": np.concatenate(([0], np.cumsum(np.bincount(synapses.source, minlength=n)))).astype(np.uint64),
            "target": synapses.target | synapses.inhibitory.astype(np.uint32) << np.uint32(31),
            "weight": synapses.weight.copy(),
            "psp": synapses.psp.copy(),
            "potential": neurons.membrane_potential.copy(),
            "threshold": neurons.threshold.copy(),
            "limit": neurons.threshold_limit.copy(),
            "leak": neurons.leak_coefficient.copy(),
            "period": neurons.refractory_period.copy(),
            "countdown": neurons.refractory_countdown.copy(),
            "power": flag,
            "touched": np.zeros(n, np.uint8),
            "sum": np.zeros(n, np.int32),
        }
        pointers = {name: array.ctypes.data for name, array in self._arrays.items()}
        self._net = self.Net(n=n, threads=threads, power_amount=connectome.settings.power_amount, **pointers)
        self._queues = [np.zeros(n, np.uint32), np.zeros(n, np.uint32)]
        self._count = 0

    def burst(self) -> NDArray[np.uint32]:
        before, after = self._queues
        pointers = (ctypes.c_void_p(queue.ctypes.data) for queue in (before, after))
        self._count = self._burst(ctypes.byref(self._net), next(pointers), self._count, next(pointers))
        self._queues.reverse()
        return after[: self._count].copy()


Burst = Callable[[], NDArray[np.uint32]]


def measure(contenders: dict[str, tuple[Burst, int]], rounds: int) -> dict[str, float]:
    """Median seconds of a burst of each contender, given with its bursts in a round; all must fire the same neurons.

    In a round one contender runs after the other, with a pause between them in which the threads of the one before go to
    sleep: taking turns at every burst, waiting threads of one would take the cores from the other.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        fired = []
        for name, (burst, bursts) in contenders.items():
            time.sleep(0.02)
            out = []
            for _ in range(bursts):
                start = time.perf_counter()
                ids = burst()
                seconds[name].append(time.perf_counter() - start)
                out.append(ids)
            fired.append(out)
            if number == 0:
                seconds[name] = seconds[name][min(GROUPS, bursts - 1) :]  # the first bursts deliver nothing or warm up
        for other in fired[1:]:
            if number and len(other) != len(fired[0]):
                continue  # it has fallen behind, being slow
            if not all(np.array_equal(*pair) for pair in zip(fired[0], other, strict=False)):
                raise SystemExit(f"round {number}: {', '.join(contenders)} did not fire the same neurons")
    return {name: float(np.median(times)) for name, times in seconds.items()}


def compare(fired: int, workers: int, rounds: int, **size: int) -> dict[str, Any]:
    """Medians of a burst's time in microseconds, and the ratios."""
    connectome, power = network(fired, **size)
    by_hand = HandWritten(connectome, power, workers)

    def cpu() -> DevicePlatform:
        return DevicePlatform(CpuDevice(workers=workers))

    with NPU.from_connectome(connectome, backend=cpu) as npu, NPU.from_connectome(connectome, backend="reference") as reference:
        npu.set_power_neurons(power)
        reference.set_power_neurons(power)
        seconds = measure(
            {
                "cpu": (lambda: npu.process_burst().fired_neurons, 4 * GROUPS),
                "c": (by_hand.burst, 4 * GROUPS),
                "reference": (lambda: reference.process_burst().fired_neurons, 2),
            },
            rounds,
        )
        events, memory = npu.process_burst().synaptic_injections, npu.memory()
    return {
        "neurons": connectome.neuron_capacity,
        "synapses": connectome.synapse_count,
        "bytes_a_synapse": memory["rows"] / connectome.synapse_count,
        "bytes_a_neuron": memory["neurons"] / connectome.neuron_capacity,
        "fired": fired,
        "events": events,
        "workers": workers,
        "microseconds": {name: 1e6 * value for name, value in seconds.items()},
        "speed_over_c": seconds["c"] / seconds["cpu"],
        "speed_over_reference": seconds["reference"] / seconds["cpu"],
    }


def _npu(fired: int, workers: int, size: dict[str, int]) -> NPU:
    connectome, power = network(fired, **size)
    npu = NPU.from_connectome(connectome, backend=lambda: DevicePlatform(CpuDevice(workers=workers)))
    npu.set_power_neurons(power)
    npu.run(2 * GROUPS)
    return npu


def _shortest(npu: NPU) -> float:
    """Seconds of the shortest of some bursts: enough of them that the system has found a core for each worker."""
    seconds = []
    for _ in range(4 * GROUPS):
        start = time.perf_counter()
        npu.process_burst()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _serve(pipe: Any, fired: int, size: dict[str, int]) -> None:
    """In a process of its own: bursts on one worker whenever asked, until there is nobody to ask."""
    npu = _npu(fired, 1, size)
    pipe.send(0.0)
    while pipe.recv():
        pipe.send(_shortest(npu))


def scaling(fired: int, rounds: int, **size: int) -> dict[str, Any]:
    """Two workers against two processes of one worker each, both beside one worker alone, in microseconds a burst.

    `share`: bursts a second of the two workers over those of the two processes together. They take turns, and of each the
    shortest burst counts (of two processes at once, the slower one's): on a shared machine only a moment without others
    tells anything.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    other = context.Process(target=_serve, args=(there, fired, size), daemon=True)
    other.start()
    with _npu(fired, 1, size) as one, _npu(fired, 2, size) as two:
        here.recv()
        best = dict.fromkeys(("one", "pair", "two"), math.inf)
        for _ in range(rounds):
            best["one"] = min(best["one"], _shortest(one))
            here.send(True)
            mine = _shortest(one)
            best["pair"] = min(best["pair"], max(mine, here.recv()))
            best["two"] = min(best["two"], _shortest(two))
        here.send(False)
    other.join()
    return {
        "fired": fired,
        "microseconds": {name: 1e6 * value for name, value in best.items()},
        "processes_scale": 2 * best["one"] / best["pair"],
        "workers_scale": best["one"] / best["two"],
        "share": best["pair"] / best["two"] / 2,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=cpu_workers()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="10,000 neurons and 1 M synapses")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    check_output(parser, options.json)
    shrink = 10 if options.quick else 1
    rows = [compare(fired // shrink, options.workers, options.rounds, neurons=NEURONS // shrink) for fired in (1_000, 20_000)]
    for row in rows:
        times = ", ".join(f"{name} {value:,.0f} us" for name, value in row["microseconds"].items())
        print(f"{row['fired']:,} fired, {row['events']:,} events, {row['workers']} workers: {times}")
        print(f"    speed over C {row['speed_over_c']:.2f}, over reference {row['speed_over_reference']:.1f}")
    if options.workers > 1:
        scales = scaling(20_000 // shrink, 2 * options.rounds, neurons=NEURONS // shrink)
        print(
            f"two processes scale by {scales['processes_scale']:.2f}, two workers by {scales['workers_scale']:.2f}: "
            f"{scales['share']:.2f} of it"
        )
        rows.append(scales)
    if options.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        facts = {"machine": platform.machine(), "cores": cpu_workers()[0], "python": platform.python_version(), "numpy": np.__version__}
        facts |= {"commit": commit, "date": time.strftime("%Y-%m-%d"), "compile": " ".join(COMPILE)}
        write(options.json, {"benchmark": "cpu burst against C", **facts, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
