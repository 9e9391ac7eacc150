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
import os
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gpu_npu import NPU, Connectome, Digest, NpuError, Rules, Settings
from profiling import workloads

Ids = NDArray[np.uint32]
Row = dict[str, Any]
BIGGEST_WEIGHT = 4
PERIOD = 3
DRIVEN = 10
"""One of so many neurons is driven, and fires once in about SWEEP bursts by that alone."""
SWEEP = 20
ROUNDS = 5
SIZES = {"seed-sized": (22_590, 22, 200), "100,000 neurons": (100_000, 100, 50), "1,000,000 neurons": (1_000_000, 100, 50)}
"""Neurons, synapses of each, bursts of a round."""


# -- the network -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Network:
    """`degree` synapses leave every neuron; those of every second neuron inhibit. Arrays: target u32 (neurons, degree),
    ascending in a row; weight u8 (neurons, degree); potential f32 (neurons,), what each starts with."""

    neurons: int
    degree: int
    target: Ids
    weight: NDArray[np.uint8]
    potential: NDArray[np.float32]
    threshold: float
    amount: float

    @staticmethod
    def random(neurons: int, degree: int, seed: int = 0) -> Network:
        """The threshold makes what a neuron receives worth about half of its own drive: activity neither dies nor grows."""
        rng = np.random.default_rng(seed)
        degree = min(degree, neurons)
        width = neurons // degree
        target = rng.integers(0, width, (neurons, degree), dtype=np.uint32) + np.arange(degree, dtype=np.uint32) * np.uint32(width)
        weight = rng.integers(1, BIGGEST_WEIGHT + 1, (neurons, degree), dtype=np.uint8)
        square = np.mean(np.arange(1, BIGGEST_WEIGHT + 1) ** 2)
        threshold = float(np.ceil(np.sqrt(2 * degree * square)))
        potential = rng.integers(0, int(threshold), neurons).astype(np.float32)
        return Network(neurons, degree, target, weight, potential, threshold, max(1.0, round(threshold / SWEEP)))

    @property
    def driven(self) -> Ids:
        return np.arange(0, self.neurons, DRIVEN, dtype=np.uint32)

    @property
    def drive(self) -> NDArray[np.float32]:
        """What each neuron receives from outside in every burst."""
        drive = np.zeros(self.neurons, np.float32)
        drive[self.driven] = self.amount
        return drive

    def signed(self, dtype: Any = np.float32) -> NDArray[Any]:
        """Weights with their signs, (neurons, degree)."""
        signed = self.weight.astype(dtype)
        signed[1::2] *= -1
        return signed

    @cached_property
    def connectome(self) -> Connectome:
        """For the NPU. Exact as long as what arrives at a neuron in a burst stays below 2^24."""
        most = BIGGEST_WEIGHT * int(np.bincount(self.target.ravel()).max()) + self.threshold + self.amount
        if most >= 2**24:
            raise ValueError(f"sums of up to {most:,.0f} are not exact in float32")
        rules = Rules(refractory_clock="burst", potential_floor=0.0)
        connectome = Connectome(self.neurons, self.weight.size, settings=Settings(rules=rules, power_amount=self.amount))
        fields = {"threshold": self.threshold, "refractory_period": PERIOD, "leak_coefficient": 0.0}
        connectome.add_neurons(self.neurons, membrane_potential=self.potential, **fields)
        source = np.repeat(np.arange(self.neurons, dtype=np.uint32), self.degree)
        connectome.add_synapses(source, self.target.ravel(), self.weight.ravel(), 1, source % 2 == 1)
        return connectome


# -- engines -----------------------------------------------------------------------------------------------------------
class Engine(ABC):
    """One network in one library."""

    @abstractmethod
    def run(self, bursts: int) -> list[Ids]:
        """The ids that fired in each of the next bursts, on the host."""

    def close(self) -> None:
        """Give back what will not go with the object."""
        return


class OurRun(Engine):
    """`NPU.run`."""

    def __init__(self, network: Network, make: Callable[[], Any]) -> None:
        self._npu = NPU.from_connectome(network.connectome, backend=make)
        self._npu.set_power_neurons(network.driven)

    def close(self) -> None:
        self._npu.close()

    def run(self, bursts: int) -> list[Ids]:
        fired: list[Ids] = []
        self._npu.run(bursts, watch=lambda result: fired.append(result.fired_neurons))
        return fired


class OurBursts(OurRun):
    """`NPU.process_burst`, as often."""

    def run(self, bursts: int) -> list[Ids]:
        return [self._npu.process_burst().fired_neurons for _ in range(bursts)]


class Arrays(Engine):
    """The model in arrays of NumPy, or of CuPy, which has the same functions."""

    def __init__(self, network: Network, xp: Any, sparse: Any) -> None:
        """`sparse`: scipy.sparse or cupyx.scipy.sparse for products; None to gather rows."""
        self._xp, self._neurons, self._threshold = xp, network.neurons, np.float32(network.threshold)
        self._potential, self._drive = xp.asarray(network.potential), xp.asarray(network.drive)
        self._countdown = xp.zeros(network.neurons, xp.int32)
        self._spikes = xp.zeros(network.neurons, xp.bool_)
        self._matrix: Any = None
        if sparse is None:
            self._target, self._weight = xp.asarray(network.target.astype(np.int32)), xp.asarray(network.signed())
            return
        data, columns = xp.asarray(network.signed().ravel()), xp.asarray(network.target.ravel().astype(np.int32))
        rows = xp.arange(0, network.target.size + 1, network.degree, dtype=xp.int32)
        by_source = sparse.csr_matrix((data, columns, rows), shape=(network.neurons, network.neurons))
        self._matrix = by_source.T.tocsr()

    def _arriving(self) -> Any:
        if self._matrix is not None:
            return self._matrix @ self._spikes.astype(self._xp.float32)
        fired = self._xp.flatnonzero(self._spikes)
        targets, weights = self._target[fired].ravel(), self._weight[fired].ravel()
        if self._xp is np:
            return np.bincount(targets, weights, self._neurons).astype(np.float32)
        sums = self._xp.zeros_like(self._drive)
        self._xp.add.at(sums, targets, weights)  # an atomic addition each
        return sums

    def run(self, bursts: int) -> list[Ids]:
        xp, recorded = self._xp, []
        for _ in range(bursts):
            free = self._countdown == 0
            total = xp.maximum(self._potential + (self._arriving() + self._drive), 0)
            self._spikes = free & (total >= self._threshold)
            self._potential = xp.where(free, xp.where(self._spikes, 0, total), self._potential)
            self._countdown = xp.where(free, PERIOD * self._spikes, self._countdown - 1)
            recorded.append(self._spikes)
        host = recorded if xp is np else [spikes.get() for spikes in recorded]
        return [np.flatnonzero(spikes).astype(np.uint32) for spikes in host]


class Torch(Engine):
    """The model in tensors of PyTorch.

    Rows are gathered without a wait for the host: of as many as can have fired, those that did not are a row of zeros.
    """

    def __init__(self, network: Network, device: str, *, product: bool, most_fired: int) -> None:
        self._torch = torch = importlib.import_module("torch")
        if device == "cpu":
            torch.set_num_threads(1)  # its threads spin and take the cores from whoever runs beside it; one was faster
        place = partial(torch.as_tensor, device=device)
        self._neurons, self._threshold, self._most = network.neurons, network.threshold, most_fired
        self._potential, self._drive = place(network.potential), place(network.drive)
        self._countdown = torch.zeros(network.neurons, dtype=torch.int32, device=device)
        self._spikes = torch.zeros(network.neurons, dtype=torch.bool, device=device)
        self._matrix: Any = None
        if product:
            target, order = torch.sort(place(network.target.astype(np.int32).ravel()), stable=True)
            start = torch.zeros(network.neurons + 1, dtype=torch.int32, device=device)
            start[1:] = torch.bincount(target, minlength=network.neurons).cumsum(0)
            source, weight = (order // network.degree).to(torch.int32), place(network.signed().ravel())[order]
            shape = (network.neurons, network.neurons)
            self._matrix = torch.sparse_csr_tensor(start, source, weight, shape, check_invariants=True)  # by target
            return
        none = np.zeros((1, network.degree))
        self._target = place(np.concatenate((network.target, none)).astype(np.int32))
        self._weight = place(np.concatenate((network.signed(), none)).astype(np.float32))

    def _arriving(self) -> Any:
        torch = self._torch
        if self._matrix is not None:
            return self._matrix @ self._spikes.to(torch.float32)
        fired = torch.nonzero_static(self._spikes, size=self._most, fill_value=self._neurons).ravel()
        sums = torch.zeros_like(self._drive)
        return sums.index_add_(0, self._target[fired].ravel(), self._weight[fired].ravel())

    def run(self, bursts: int) -> list[Ids]:
        torch, recorded = self._torch, []
        with torch.inference_mode():
            for _ in range(bursts):
                free = self._countdown == 0
                total = (self._potential + (self._arriving() + self._drive)).clamp_(min=0)
                self._spikes = free & (total >= self._threshold)
                self._potential = torch.where(free, torch.where(self._spikes, 0.0, total), self._potential)
                self._countdown = torch.where(free, PERIOD * self._spikes.to(torch.int32), self._countdown - 1)
                recorded.append(self._spikes)
            host = torch.stack(recorded).cpu().numpy()
        return [np.flatnonzero(spikes).astype(np.uint32) for spikes in host]


class Genn(Engine):
    """GeNN (pygenn 5): its code generator, its recording of spikes on the device, weights of one byte."""

    STEP = """
    if (Countdown > 0) { Countdown--; Stopped = 1; }
    else { Stopped = 0; V = fmax(V + (Isyn + Drive), 0.0f); }
    """

    def __init__(self, network: Network, backend: str, folder: Path, bursts: int) -> None:
        """`bursts`: how many every `run` computes."""
        genn = importlib.import_module("pygenn")
        self._bursts = bursts
        self._model = model = genn.GeNNModel("float", "beside", backend=backend)
        model.dt = 1.0
        neuron = genn.create_neuron_model(
            "integer",
            params=["Threshold", "Period"],
            vars=[("V", "scalar"), ("Drive", "scalar"), ("Countdown", "int"), ("Stopped", "int")],
            sim_code=self.STEP,
            threshold_condition_code="Stopped == 0 && V >= Threshold",
            reset_code="V = 0.0f; Countdown = (int)Period;",
            auto_refractory_required=False,
        )
        synapse = genn.create_weight_update_model("byte", vars=[("g", "int8_t")], pre_spike_syn_code="addToPost((scalar)g);")
        parameters = {"Threshold": network.threshold, "Period": PERIOD}
        start = {"V": network.potential, "Drive": network.drive, "Countdown": 0, "Stopped": 0}
        self._neurons = model.add_neuron_population("n", network.neurons, neuron, parameters, start)
        self._neurons.spike_recording_enabled = True
        weights = {"g": network.signed(np.int8).ravel()}
        update, delta = genn.init_weight_update(synapse, {}, weights), genn.init_postsynaptic("DeltaCurr")
        synapses = model.add_synapse_population("s", "SPARSE", self._neurons, self._neurons, update, delta)
        synapses.set_sparse_connections(np.repeat(np.arange(network.neurons), network.degree), network.target.ravel())
        model.build(str(folder))
        model.load(num_recording_timesteps=bursts)

    def run(self, bursts: int) -> list[Ids]:
        if bursts != self._bursts:
            raise ValueError(f"this engine runs {self._bursts} bursts at a time, not {bursts}")
        first = self._model.timestep
        for _ in range(bursts):
            self._model.step_time()
        self._model.pull_recording_buffers_from_device()
        times, ids = self._neurons.spike_recording_data[0]
        when = np.asarray(times).astype(np.int64) - first
        return [np.sort(np.asarray(ids)[when == step]).astype(np.uint32) for step in range(bursts)]


class Brainevent(Engine):
    """brainevent on JAX: its product of spikes and CSR by source, all bursts of a run in one compiled loop."""

    def __init__(self, network: Network, bursts: int) -> None:
        """`bursts`: how many every `run` computes."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory of a GPU
        jax, brainevent = importlib.import_module("jax"), importlib.import_module("brainevent")
        xp = jax.numpy
        rows = np.arange(0, network.target.size + 1, network.degree, dtype=np.int32)  # looked at while it is compiled
        columns, data = xp.asarray(network.target.ravel().astype(np.int32)), xp.asarray(network.signed().ravel())
        drive = xp.asarray(network.drive)

        def burst(arrays: Any, state: Any, _: None) -> Any:
            potential, countdown, spikes = state
            matrix = brainevent.CSR((*arrays, rows), shape=(network.neurons, network.neurons))
            free = countdown == 0
            total = xp.maximum(potential + (brainevent.BinaryArray(spikes) @ matrix + drive), 0)
            fires = free & (total >= network.threshold)
            potential = xp.where(free, xp.where(fires, 0, total), potential)
            return (potential, xp.where(free, PERIOD * fires, countdown - 1), fires), fires

        self._bursts, self._arrays = bursts, (data, columns)
        self._loop = jax.jit(lambda arrays, state: jax.lax.scan(partial(burst, arrays), state, None, length=bursts))
        nothing = xp.zeros(network.neurons, xp.int32)
        self._state = (xp.asarray(network.potential), nothing, nothing > 0)

    def run(self, bursts: int) -> list[Ids]:
        if bursts != self._bursts:
            raise ValueError(f"this engine runs {self._bursts} bursts at a time, not {bursts}")
        self._state, recorded = self._loop(self._arrays, self._state)
        return [np.flatnonzero(spikes).astype(np.uint32) for spikes in np.asarray(recorded)]


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
