"""What plasticity costs, side by side in one run: a network without a rule, and the same one while it learns.

    python -m profiling.bench_plasticity [--backend cpu|cuda] [--rounds N] [--quick] [--budget SECONDS] [--json FILE] [--commit TEXT]

On a CPU: 100,000 neurons, 10 M synapses, 1 % of the neurons fire in each burst: groups of neurons in turn, of which there are
five, so that most neurons are silent, or a hundred, so that every neuron fires. 1 M synapses are plastic, "spread" (a tenth
of each row, those to the last tenth of the ids), "scattered" (likewise, those to every tenth id) or "dense" (the rows of a
tenth of the neurons), and 0.5 M, to see what the cost follows. Window and FEAGI rules of 5 and of 20 bursts, and pair rules. On a GPU:
1 M neurons, 100 M synapses, "all" of them plastic, one rule of each kind.
All networks fire the same neurons. They take turns in short rounds, so that a slow moment of the machine meets all of them;
only the ratios mean anything on a shared machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpu_npu import FeagiRule, PairRule, PlasticityRule, WindowRule
from gpu_npu.backends.base import Platform
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.executor import DevicePlatform
from gpu_npu.limits import cpu_workers
from profiling import workloads
from profiling.workloads import GROUPS

PLASTIC_AREA, OTHER_AREA = 1, 0
EVERYONE = 100
"""Groups of one in a hundred neurons."""
BURSTS = 25
"""In a round, of one network."""
Kind = Mapping[str, Any]
RULES: Mapping[str, tuple[type[WindowRule] | type[PairRule] | type[FeagiRule], Kind]] = {
    "window of 5": (WindowRule, {"window": 5, "plus": 1, "minus": 1}),
    "window of 20": (WindowRule, {"window": 20, "plus": 1, "minus": 1}),
    "feagi, 5 bursts": (FeagiRule, {"window": 5, "up": 1, "down": 1}),
    "feagi, 20 bursts": (FeagiRule, {"window": 20, "up": 1, "down": 1}),
    "pair, nearest": (PairRule, {"a_plus": 0.5, "a_minus": 0.3, "tau_plus": 20.0, "tau_minus": 20.0}),
    "pair, all": (PairRule, {"a_plus": 0.5, "a_minus": 0.3, "tau_plus": 20.0, "tau_minus": 20.0, "pairing": "all"}),
}


def rules(kind: str, layout: str) -> list[PlasticityRule]:
    """Rules of this kind for all synapses that leave ("dense") or end in ("spread", "scattered") the plastic area."""
    rule, parameters = RULES[kind]
    if layout == "all":
        return [rule(PLASTIC_AREA, PLASTIC_AREA, **parameters)]
    other = [(PLASTIC_AREA, OTHER_AREA) if layout == "dense" else (OTHER_AREA, PLASTIC_AREA), (PLASTIC_AREA, PLASTIC_AREA)]
    return [rule(source, target, **parameters) for source, target in other]


def plastic_network(layout: str, share: float, neurons: int, degree: int) -> workloads.Network:
    """A silent network with this share of its neurons in the plastic area."""
    network = workloads.silent(neurons, degree)
    ids = np.arange(neurons)
    plastic = ids % round(1 / share) == 0 if layout == "scattered" else ids >= round(neurons * (1 - share))
    network.connectome.neurons.cortical_area[:] = np.where(plastic, PLASTIC_AREA, OTHER_AREA)
    return network


def compare(
    layout: str,
    share: float,
    rounds: int,
    backend: Callable[[], Platform],
    *,
    neurons: int,
    degree: int,
    groups: int = GROUPS,
    kinds: Iterable[str] = RULES,
) -> dict[str, Any]:
    """Microseconds of a burst, without a rule and with each kind, and what that is to the one without."""
    network, fired = plastic_network(layout, share, neurons, degree), neurons // 100
    npus = {name: network.on(backend) for name in ("no rule", *kinds)}
    seconds: dict[str, list[float]] = {name: [] for name in npus}
    for name, npu in npus.items():
        workloads.arm(npu, fired, groups=groups)
        for rule in rules(name, layout) if name in RULES else []:
            npu.register_plasticity(rule)
    warm = -(-groups // BURSTS)
    for number in range(warm + rounds):  # the first ones are not counted: each group fires
        digests = set()
        for name, npu in npus.items():
            time.sleep(0.02)  # the threads of the one before go to sleep
            start = time.perf_counter()
            run = npu.run(BURSTS, digest=True)
            if number >= warm:
                seconds[name].append((time.perf_counter() - start) / BURSTS)
            digests.add(run.digest)
        if len(digests) > 1:
            raise SystemExit(f"round {number}: {', '.join(npus)} did not fire the same neurons")
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    memory = {name: npu.memory() for name, npu in npus.items()}
    synapses = npus["no rule"].get_synapse_count()
    for npu in npus.values():
        npu.close()
    before = sum(memory["no rule"].values())
    return {
        "neurons": neurons,
        "degree": degree,
        "groups": groups,
        "layout": layout,
        "synapses": synapses,
        "plastic_synapses": round(synapses * share),
        "fired": fired,
        "microseconds": {name: 1e6 * value for name, value in median.items()},
        "fastest_microseconds": {name: 1e6 * min(times) for name, times in seconds.items()},
        "times_without": {name: median[name] / median["no rule"] for name in kinds},
        "bytes_a_plastic_synapse": {name: (sum(memory[name].values()) - before) / (synapses * share) for name in kinds},
    }


def cases(backend: str) -> list[tuple[str, float, int]]:
    """Layout, share that is plastic, groups: the most important ones first."""
    if backend == "cuda":
        return [("all", 1.0, EVERYONE), ("all", 1.0, GROUPS)]
    some = [(layout, share, GROUPS) for layout in ("spread", "dense") for share in (0.1, 0.05)]
    return some + [(layout, 0.1, EVERYONE) for layout in ("spread", "scattered", "dense")]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("cpu", "cuda", "emulated"), default="cpu", help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=min(2, cpu_workers()[0]), help="of a CPU (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small networks: to see that it runs")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="no network is begun after that")
    parser.add_argument("--commit", help="where there is no repository to ask")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    workloads.check_output(parser, options.json)
    end = time.perf_counter() + options.budget

    def cpu() -> DevicePlatform:
        return DevicePlatform(CpuDevice(workers=options.workers))

    backend = cpu if options.backend == "cpu" else workloads.maker(options.backend)
    size = {"neurons": 1_000_000 if options.backend == "cuda" else 100_000, "degree": 100}
    if options.quick:
        size = {"neurons": 2_000, "degree": 50}
    kinds = ("window of 20", "pair, nearest") if options.backend == "cuda" else tuple(RULES)
    rows: list[dict[str, Any]] = []
    report = {
        "benchmark": "plasticity",
        **workloads.facts(options.backend, commit=options.commit),
        "workers": options.workers if options.backend == "cpu" else None,
        "rows": rows,
    }
    for layout, share, groups in cases(options.backend):
        if rows and time.perf_counter() > end:
            break
        rows.append(compare(layout, share, options.rounds, backend, groups=groups, kinds=kinds, **size))
        show(rows[-1])
        if options.json:
            workloads.write(options.json, report)
    return 0


def show(row: Mapping[str, Any]) -> None:
    print(f"{row['synapses']:,} synapses, {row['plastic_synapses']:,} plastic ({row['layout']}), ", end="")
    print(f"{row['fired']:,} neurons fire, one of {row['groups']} groups")
    for name, value in row["microseconds"].items():
        line = f"  {name:16} {value:8.0f} us a burst"
        if name in row["times_without"]:
            line += f", {row['times_without'][name]:.2f} times; {row['bytes_a_plastic_synapse'][name]:.1f} bytes a plastic synapse"
        print(line)


if __name__ == "__main__":
    sys.exit(main())
