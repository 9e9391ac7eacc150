"""Other engines beside ours: the same network, the same spikes, in the same run.

    python -m profiling.engines [--backend cuda] [--device N] [--quick] [--budget SECONDS] [--only ENGINE] [--json FILE]

The network is one that all can compute: integrate and fire without leak, one refractory period, potentials not below 0,
weights of small integers, a tenth of the neurons driven. Every sum is an integer below 2^24, exact in float32 in any order,
so that all engines must fire the same neurons in every burst; one that does not is told, and its time is not.

Each engine is set up as its library does it best, and reads the ids of the fired neurons back:

    product            weights as CSR by target, times the vector of spikes: every synapse is read in every burst, nothing waits
    rows               only the rows of fired neurons are gathered and added up
    brainevent, genn   simulators with kernels of their own (profiling/README.md says how to come by them)

They take turns in rounds of equally many bursts. A library that is not there, or that fails, is written down as such.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gpu_npu import Digest, NpuError
from profiling import workloads
from profiling.libraries import Arrays, Brainevent, Engine, Genn, Ids, Network, OurBursts, OurRun, Torch

Row = dict[str, Any]
ROUNDS = 5
SIZES = {"seed-sized": (22_590, 22, 200), "100,000 neurons": (100_000, 100, 50), "1,000,000 neurons": (1_000_000, 100, 50)}
"""Neurons, synapses of each, bursts of a round."""


# -- engines -----------------------------------------------------------------------------------------------------------
Maker = Callable[[Network, int, int, Path], Engine]
"""(network, most that fire in a burst, bursts of a run, a folder) -> an engine that has it."""


def contenders(backend: str, device: int | None) -> dict[str, Maker]:
    """What can be set beside this backend: on a GPU what runs there, else what runs on a CPU."""
    ours = workloads.maker(backend, device)
    on_gpu = backend == "cuda"
    array, sparse = ("cupy", "cupyx.scipy.sparse") if on_gpu else ("numpy", "scipy.sparse")
    place = f"cuda:{device or 0}" if on_gpu else "cpu"
    load = importlib.import_module
    return {
        "gpu-npu run": lambda network, *_: OurRun(network, ours),
        "gpu-npu process_burst": lambda network, *_: OurBursts(network, ours),
        f"{sparse.split('.')[0]} product": lambda network, *_: Arrays(network, load(array), load(sparse)),
        f"{array} rows": lambda network, *_: Arrays(network, load(array), None),
        "torch product": lambda network, most, *_: Torch(network, place, product=True, most_fired=most),
        "torch rows": lambda network, most, *_: Torch(network, place, product=False, most_fired=most),
        "brainevent": lambda network, _, bursts, *__: Brainevent(network, bursts),
        "genn": lambda network, _, bursts, folder: Genn(network, "cuda" if on_gpu else "single_threaded_cpu", folder, bursts),
    }


LIBRARIES = ("numpy", "scipy", "cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "brainevent", "pygenn")


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# -- the run -----------------------------------------------------------------------------------------------------------
def digest(fired: Sequence[Ids]) -> str:
    """Of the bursts of a round."""
    told = Digest()
    for number, ids in enumerate(fired):
        told.update(number, ids)
    return told.hexdigest()


class Turns:
    """The rounds of one engine: made at the first, out at a failure, at other spikes, or when its seconds are spent."""

    def __init__(self, name: str, make: Callable[[], Engine], seconds: float) -> None:
        self.row: Row = {"engine": name}
        self._make, self._seconds = make, seconds
        self._engine: Engine | None = None
        self._times: list[float] = []

    def take(self, bursts: int, expected: str) -> None:
        if "status" in self.row or sum(self._times) > self._seconds:
            return
        try:
            if self._engine is None:
                start = time.perf_counter()
                self._engine = self._make()
                self.row["build_s"] = time.perf_counter() - start
            start = time.perf_counter()
            fired = self._engine.run(bursts)
            self._times.append(time.perf_counter() - start)
        except Exception as error:  # what is not ours may raise anything; it is written down, and the others go on
            status = "unavailable" if isinstance(error, ImportError) else "failed"
            problem = f"{type(error).__name__}: {error}"[:500]
            self.row |= {"status": status, "problem": problem, "trace": traceback.format_exc(limit=-3)[-1500:]}
            return
        if digest(fired) != expected:
            self.row |= {"status": "failed", "problem": f"fires other neurons, in round {len(self._times)} or before"}

    def close(self, bursts: int) -> Row:
        """What came of it. The first round warmed up, and is left out where there is another."""
        if self._engine is not None:
            self._engine.close()
        if "status" not in self.row:
            each = [1e6 * seconds / bursts for seconds in self._times[1:] or self._times]
            middle = float(np.median(each))
            self.row |= {"status": "ran", "us_per_burst": middle, "fastest_us": min(each), "slowest_us": max(each), "rounds": len(each)}
        return self.row


def compare(network: Network, makers: dict[str, Maker], bursts: int, seconds: float) -> Row:
    """What fired, and a row for each engine: microseconds a burst (median of the rounds), and how many times that of the
    first, which also says beforehand what must fire."""
    names = list(makers)
    expected, counts = [], []
    with tempfile.TemporaryDirectory() as folder:
        witness = makers[names[0]](network, network.neurons, bursts, Path(folder))
        for _ in range(ROUNDS + 1):
            fired = witness.run(bursts)
            expected.append(digest(fired))
            counts.append([len(ids) for ids in fired])
        witness.close()
        most = int(np.max(counts))
        turns = [Turns(name, partial(makers[name], network, most, bursts, Path(folder)), seconds / len(names)) for name in names]
        for want in expected:
            for turn in turns:
                turn.take(bursts, want)
        rows = [turn.close(bursts) for turn in turns]
    events = float(np.mean(counts[1:])) * network.degree
    for row in rows:
        if row["status"] == "ran":
            row["events_per_s"] = 1e6 * events / row["us_per_burst"]
            if rows[0]["status"] == "ran":
                row["times_ours"] = row["us_per_burst"] / rows[0]["us_per_burst"]
    size = {"neurons": network.neurons, "synapses": network.weight.size, "bursts": bursts}
    return {**size, "fired": float(np.mean(counts[1:])), "events": events, "digest": expected[-1], "engines": rows}


def table(report: Row) -> Table:
    told = Table(title=f"{report['device']}, commit {report['commit'][:12]}, {report['date']}", title_justify="left")
    for name in ("network", "fired", "engine", "µs a burst", "G events/s", "times ours"):
        told.add_column(name, justify="left" if name in ("network", "engine") else "right")
    for network in report["networks"]:
        named = (network["name"], f"{network['fired']:,.0f}")
        for row in network["engines"]:
            if row["status"] == "ran":
                ratio = f"{row['times_ours']:.1f}" if "times_ours" in row else ""
                told.add_row(*named, row["engine"], f"{row['us_per_burst']:,.1f}", f"{row['events_per_s'] / 1e9:.3f}", ratio)
            else:
                told.add_row(*named, row["engine"], f"{row['status']}: {row['problem']}"[:60])
            named = ("", "")
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m profiling.engines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--backend", choices=workloads.BACKENDS, default="cuda", help="(%(default)s)")
    parser.add_argument("--device", type=int, help="number of the GPU")
    parser.add_argument("--quick", action="store_true", help="the smallest network alone")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for the rounds (%(default)s)")
    parser.add_argument("--only", action="append", metavar="ENGINE", help="engines beside ours whose names begin so")
    parser.add_argument("--commit", help="where there is no repository to ask")
    parser.add_argument("--json", type=Path, help="write the figures here, network by network")
    options = parser.parse_args(arguments)
    workloads.check_output(parser, options.json)
    try:
        facts = workloads.facts(options.backend, options.device, options.commit)
    except NpuError as error:
        print(f"Error: {error}".splitlines()[0], file=sys.stderr)
        return 2
    makers = contenders(options.backend, options.device)
    if options.only:
        makers = {name: make for name, make in makers.items() if name.startswith(("gpu-npu", *options.only))}
    sizes = dict(list(SIZES.items())[:1]) if options.quick else SIZES
    report: Row = {"benchmark": "engines", **facts, "libraries": versions(), "quick": options.quick, "networks": []}
    start = time.perf_counter()
    for name, (neurons, degree, bursts) in sizes.items():
        if time.perf_counter() - start > options.budget:
            print(f"{name}: no time is left")
            continue
        compared = compare(Network.random(neurons, degree), makers, bursts, options.budget / len(sizes))
        report["networks"].append({"name": name, **compared})
        if options.json:
            workloads.write(options.json, report)
    Console(width=None if sys.stdout.isatty() else 140).print(table(report))
    ours = [row for network in report["networks"] for row in network["engines"] if row["engine"].startswith("gpu-npu")]
    return 0 if all(row["status"] == "ran" for row in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
