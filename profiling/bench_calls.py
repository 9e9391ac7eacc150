"""What edits and stimulus cost, one call at a time and in one call, as there are more and more of them.

    python -m profiling.bench_calls [--backend reference cpu] [--sizes N ...] [--only NAME ...] [--seconds S] [--json FILE]

For each method of NPU that edits a network or gives it stimulus, and for the queue of a BurstEngine: so many calls of one item
each, with the burst that takes them, and one call with as many items, likewise. The network is the same for every number of
them: 100,000 neurons, 10,000 synapses, and as much room again. `growth` is what the last tenth of the calls cost over what the
first tenth did, each measured by its quickest part: about 1 where no call looks at what earlier ones left. A case that takes
longer than --seconds is cut short and says after how many calls. A call of the reference that names synapses passes over
all of them (docs/architecture.md), so its cost is in proportion to their number.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu import NPU, Area, BurstEngine, Connectome, WindowRule
from profiling import workloads

NEURONS, SYNAPSES = 100_000, 10_000
SIZES = (1_000, 10_000, 100_000)
PARTS = 50
"""Parts of a series of calls; the first and the last five of them are compared."""
POWER_AREA, OTHER_AREA = 3, 4


@dataclass(frozen=True)
class Case:
    """`one(target, i)`: the i-th call; `batch(npu, n)`: one call that does the same n times. `target` makes, of an NPU, what is
    called; `prepare` comes before the first call."""

    name: str
    one: Callable[[Any, int], object]
    batch: Callable[[NPU, int], object] | None = None
    prepare: Callable[[NPU], object] | None = None
    target: Callable[[NPU], Any] = lambda npu: npu
    most: int = 10**6
    """Calls that make sense."""


def ids(n: int) -> NDArray[np.int64]:
    """Each neuron at most once, out of order."""
    return np.arange(n) * 7919 % NEURONS


def _power(npu: NPU) -> None:
    npu.set_power_neurons(np.arange(NEURONS // 2))
    npu.process_burst()


def _learning(npu: NPU) -> None:
    npu.register_plasticity(WindowRule(POWER_AREA, OTHER_AREA, window=5, plus=1, minus=1))
    npu.process_burst()


def _engine(npu: NPU) -> BurstEngine:
    return BurstEngine(npu)


CASES = (
    Case("inject", lambda npu, i: npu.inject([i * 7919 % NEURONS], 1.0), lambda npu, n: npu.inject(ids(n), 1.0)),
    Case("inject, one neuron", lambda npu, i: npu.inject([5], 1.0), lambda npu, n: npu.inject(np.full(n, 5), 1.0)),
    Case("force_fire", lambda npu, i: npu.force_fire([i * 7919 % NEURONS]), lambda npu, n: npu.force_fire(ids(n))),
    Case(
        "schedule",
        lambda npu, i: npu.schedule(2 + i * 7919 % NEURONS, [i % NEURONS], 1.0),
        lambda npu, n: npu.schedule(2 + ids(n), ids(n), 1.0),
    ),
    Case("schedule, one burst", lambda npu, i: npu.schedule(9, [i % NEURONS], 1.0), lambda npu, n: npu.schedule(9, ids(n), 1.0)),
    Case("schedule_force", lambda npu, i: npu.schedule_force(2 + i, [i % NEURONS]), lambda npu, n: npu.schedule_force(2 + ids(n), ids(n))),
    Case(
        "schedule, with bursts between",
        lambda npu, i: (npu.schedule(npu.burst_count + 1 + i % 99, [5], 1.0), npu.process_burst()),
        prepare=lambda npu: npu.schedule(10**6 + np.arange(NEURONS), np.arange(NEURONS), 1.0),
        most=10_000,
    ),
    Case("set_power_neurons", lambda npu, i: npu.set_power_neurons([i % NEURONS]), lambda npu, n: npu.set_power_neurons(ids(n))),
    Case("process_burst(power_neurons)", lambda npu, i: npu.process_burst([i % 9]), lambda npu, n: npu.process_burst(ids(n)), most=10_000),
    Case(
        "add_synapse",
        lambda npu, i: npu.add_synapse(i % NEURONS, i * 7919 % NEURONS, 1, 1),
        lambda npu, n: npu.add_synapses(np.arange(n) % NEURONS, ids(n), 1, 1),
    ),
    Case(
        "add_synapses, one row",
        lambda npu, i: npu.add_synapses([5], [i * 7919 % NEURONS], 1, 1),
        lambda npu, n: npu.add_synapses(np.full(n, 5), ids(n), 1, 1),
    ),
    Case(
        "remove_synapse",
        lambda npu, i: npu.remove_synapse(i % SYNAPSES, (i + 1) % NEURONS),
        lambda npu, n: npu.remove_synapses(np.arange(n) % SYNAPSES, (np.arange(n) + 1) % NEURONS),
    ),
    Case(
        "remove_synapse, one row",
        lambda npu, i: npu.remove_synapse(5, (NEURONS - i) % NEURONS),
        lambda npu, n: npu.remove_synapses(np.full(n, 5), (NEURONS - np.arange(n)) % NEURONS),
        prepare=lambda npu: npu.add_synapses(np.full(NEURONS, 5), np.arange(NEURONS), 1, 1),
    ),
    Case(
        "update_weight",
        lambda npu, i: npu.update_weight(i % SYNAPSES, i % SYNAPSES + 1, i % 200),
        lambda npu, n: npu.update_weights(np.arange(n) % SYNAPSES, np.arange(n) % SYNAPSES + 1, np.arange(n) % 200),
    ),
    Case("add_neuron", lambda npu, i: npu.add_neuron(threshold=3.0, membrane_potential=1.0), lambda npu, n: npu.add_neurons(n)),
    Case(
        "delete_neuron",
        lambda npu, i: npu.delete_neuron(i * 7919 % NEURONS),
        lambda npu, n: npu.delete_neurons(ids(n)),
        prepare=_power,
        most=NEURONS,
    ),
    Case(
        "set_parameter",
        lambda npu, i: npu.set_parameter("threshold", [i * 7919 % NEURONS], 5.0),
        lambda npu, n: npu.set_parameter("threshold", ids(n), 5.0),
    ),
    Case("set_area_parameter", lambda npu, i: npu.set_area_parameter("threshold", 10 + i, 5.0)),
    Case("set_area", lambda npu, i: npu.set_area(10 + i, name="x")),
    Case(
        "set_neuron_mapping, new",
        lambda npu, i: npu.set_neuron_mapping({2 * NEURONS - 1 - i: 4}),
        lambda npu, n: npu.set_neuron_mapping(2 * NEURONS - 1 - np.arange(n), np.full(n, 4)),
        most=NEURONS,
    ),
    Case(
        "set_neuron_mapping",
        lambda npu, i: npu.set_neuron_mapping({i * 7919 % NEURONS: 4}),
        lambda npu, n: npu.set_neuron_mapping(ids(n), np.full(n, 4)),
    ),
    Case(
        "set_neuron_mapping, learning",
        lambda npu, i: npu.set_neuron_mapping({i * 7919 % NEURONS: POWER_AREA + i % 3}),
        lambda npu, n: npu.set_neuron_mapping(ids(n), POWER_AREA + np.arange(n) % 3),
        prepare=_learning,
    ),
    Case("set_power_amount", lambda npu, i: npu.set_power_amount(float(i))),
    Case("reserve(neurons)", lambda npu, i: npu.reserve(neurons=2 * NEURONS + 1 + i), lambda npu, n: npu.reserve(neurons=2 * NEURONS + n)),
    Case("reserve(synapses)", lambda npu, i: npu.reserve(synapses=300_001 + i), lambda npu, n: npu.reserve(synapses=300_000 + n)),
    Case("get_fire_history", lambda npu, i: npu.get_fire_history(1), prepare=lambda npu: npu.process_burst()),
    Case("get_parameter", lambda npu, i: npu.get_parameter("threshold", [5]), most=10_000),
    Case("outgoing_synapses", lambda npu, i: npu.outgoing_synapses([i % SYNAPSES]), most=10_000),
    Case("BurstEngine.inject", lambda engine, i: engine.inject([i % NEURONS], 1.0), target=_engine, most=50_000),
    Case("BurstEngine.submit", lambda engine, i: engine.submit(NPU.get_neuron_count), target=_engine, most=50_000),
)


def npu_of(backend: str) -> NPU:
    """A network with room for all that a case adds."""
    connectome = Connectome(2 * NEURONS, 300_000, areas={POWER_AREA: Area(power=True)})
    connectome.add_neurons(NEURONS, threshold=1e6)
    connectome.add_synapses(np.arange(SYNAPSES), np.arange(SYNAPSES) + 1, 1, 1)
    return NPU.from_connectome(connectome, backend=backend)


def series(case: Case, backend: str, n: int, seconds: float) -> dict[str, Any]:
    """n calls and the burst that follows, in microseconds a call; `growth` as in the module's docstring."""
    parts: list[float] = []
    size = max(n // PARTS, 1)
    with npu_of(backend) as npu:
        npu.process_burst()
        if case.prepare is not None:
            case.prepare(npu)
        target, end = case.target(npu), time.perf_counter() + seconds
        for part in range(n // size):
            start = time.perf_counter()
            for i in range(part * size, (part + 1) * size):
                case.one(target, i)
            parts.append(time.perf_counter() - start)
            if time.perf_counter() > end:
                break
        burst = timed(lambda: target.step() if isinstance(target, BurstEngine) else target.process_burst())
        if isinstance(target, BurstEngine):
            target.stop()
    calls = size * len(parts)
    few = max(len(parts) // 10, 1)
    return {
        "calls": calls,
        "microseconds": 1e6 * (sum(parts) + burst) / calls,
        "burst_microseconds": 1e6 * burst,
        "growth": min(parts[-few:]) / min(parts[:few]),
    }


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def batch(case: Case, backend: str, n: int) -> dict[str, Any]:
    """One call with n items and the burst that follows, in microseconds an item."""
    assert case.batch is not None
    with npu_of(backend) as npu:
        npu.process_burst()
        if case.prepare is not None:
            case.prepare(npu)
        seconds = timed(lambda: (case.batch(npu, n), npu.process_burst()))  # type: ignore[misc]
    return {"items": n, "microseconds": 1e6 * seconds / n}


def rows(backends: Sequence[str], sizes: Sequence[int], only: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each case on each backend."""
    for backend in backends:
        for case in CASES:
            if not only or case.name in only:
                fitting = sorted({min(n, case.most) for n in sizes})
                yield {
                    "backend": backend,
                    "name": case.name,
                    "calls": [series(case, backend, n, seconds) for n in fitting],
                    "batches": [batch(case, backend, n) for n in fitting] if case.batch is not None else [],
                }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", nargs="+", default=["reference", "cpu"], choices=workloads.BACKENDS)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="calls, and items of a batch (%(default)s)")
    parser.add_argument("--only", nargs="+", default=[], choices=[case.name for case in CASES], metavar="NAME", help="cases, by name")
    parser.add_argument("--seconds", type=float, default=10.0, help="for one series of calls (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    workloads.check_output(parser, options.json)
    report: dict[str, Any] = {"benchmark": "calls", **workloads.facts(options.backend[-1]), "rows": []}
    print(f"{'microseconds a call, and growth':44} {'microseconds an item of a batch':>40}")
    for row in rows(options.backend, options.sizes, options.only, options.seconds):
        report["rows"].append(row)
        calls = "  ".join(f"{one['calls']:,}: {one['microseconds']:.1f} ({one['growth']:.1f})" for one in row["calls"])
        batches = "  ".join(f"{one['items']:,}: {one['microseconds']:.2f}" for one in row["batches"])
        print(f"{row['backend']:9} {row['name']:30} {calls:60} {batches}", flush=True)
        if options.json:
            workloads.write(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
