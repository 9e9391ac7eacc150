"""What plasticity costs, side by side in one run: a network without a rule, and the same one while it learns.

    python -m profiling.bench_plasticity [--workers N] [--rounds N] [--quick] [--json FILE]
    python -m profiling.bench_plasticity --gpu [--json FILE]

On the CPU: 100,000 neurons, 10 M synapses, 1 % of the neurons fire in each burst: groups of neurons in turn, of which there
are five as in bench_cpu, so that most neurons are silent, or a hundred, so that every neuron fires. 1 M synapses are plastic,
"spread" (a tenth of each row, those to the last tenth of the ids), "scattered" (likewise, those to every tenth id) or "dense"
(the rows of a tenth of the neurons), and 0.5 M, to see what the cost follows.
Window rules of 5 and of 20 bursts and a pair rule. On a GPU: 1 M neurons, 100 M synapses, all plastic.
All networks fire the same neurons. They take turns in short rounds, so that a slow moment of the machine meets all of them;
only the ratios mean anything on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpu_npu import NPU, Connectome, PairRule, PlasticityRule, WindowRule
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.executor import Executor
from profiling.bench_cpu import GROUPS, network

PLASTIC_AREA, OTHER_AREA = 1, 0
EVERYONE = 100
"""Groups of one in a hundred neurons."""
BURSTS = 25
"""In a round, of one network."""
Kind = Mapping[str, Any]
RULES: Mapping[str, tuple[type[WindowRule] | type[PairRule], Kind]] = {
    "window of 5": (WindowRule, {"window": 5, "plus": 1, "minus": 1}),
    "window of 20": (WindowRule, {"window": 20, "plus": 1, "minus": 1}),
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


def plastic_network(layout: str, share: float, **size: int) -> tuple[Connectome, Any, int]:
    """The network of bench_cpu with this share of its neurons in the plastic area, its power neurons, how many fire."""
    fired = size["neurons"] // 100
    connectome, power = network(fired, **size)
    ids = np.arange(size["neurons"])
    plastic = ids % round(1 / share) == 0 if layout == "scattered" else ids >= round(size["neurons"] * (1 - share))
    connectome.neurons.cortical_area[:] = np.where(plastic, PLASTIC_AREA, OTHER_AREA)
    return connectome, power, fired


def compare(layout: str, share: float, rounds: int, backend: Any, **size: int) -> dict[str, Any]:
    """Microseconds of a burst, without a rule and with each kind, and what that is to the one without."""
    connectome, power, fired = plastic_network(layout, share, **size)
    npus = {name: NPU.from_connectome(connectome, backend=backend) for name in ("no rule", *RULES)}
    seconds: dict[str, list[float]] = {name: [] for name in npus}
    for name, npu in npus.items():
        npu.set_power_neurons(power)
        for rule in rules(name, layout) if name in RULES else []:
            npu.register_plasticity(rule)
    warm = -(-size["groups"] // BURSTS)
    for number in range(warm + rounds):  # the first ones are not counted: each group fires
        digests = set()
        for name, npu in npus.items():
            time.sleep(0.02)  # the threads of the one before go to sleep
            start = time.perf_counter()
            run = npu.run(BURSTS)
            if number >= warm:
                seconds[name].append((time.perf_counter() - start) / BURSTS)
            digests.add(run.digest)
        if len(digests) > 1:
            raise SystemExit(f"round {number}: {', '.join(npus)} did not fire the same neurons")
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    plastic = share if layout != "all" else 1.0
    memory = {name: npu.memory() for name, npu in npus.items()}
    for npu in npus.values():
        npu.close()
    synapses = connectome.synapse_count
    before = sum(memory["no rule"].values())
    return {
        **size,
        "layout": layout,
        "synapses": synapses,
        "plastic_synapses": round(synapses * plastic),
        "fired": fired,
        "microseconds": {name: 1e6 * value for name, value in median.items()},
        "fastest_microseconds": {name: 1e6 * min(times) for name, times in seconds.items()},
        "times_without": {name: median[name] / median["no rule"] for name in RULES},
        "bytes_a_plastic_synapse": {name: (sum(memory[name].values()) - before) / (synapses * plastic) for name in RULES},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small networks: to see that it runs")
    parser.add_argument("--gpu", action="store_true", help="100 M plastic synapses on the GPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)

    def cpu() -> Executor:
        return Executor(CpuDevice(workers=options.workers))

    size = {"neurons": 2_000, "degree": 50} if options.quick else {"neurons": 100_000, "degree": 100}
    if options.gpu:
        size = {"neurons": 20_000, "degree": 100} if options.quick else {"neurons": 1_000_000, "degree": 100}
        rows = [compare("all", 1.0, options.rounds, "cuda", groups=groups, **size) for groups in (GROUPS, EVERYONE)]
    else:
        cases = [(layout, share, GROUPS) for layout in ("spread", "dense") for share in (0.1, 0.05)]
        cases += [(layout, 0.1, EVERYONE) for layout in ("spread", "scattered", "dense")]
        rows = [compare(layout, share, options.rounds, cpu, groups=groups, **size) for layout, share, groups in cases]
    for row in rows:
        print(f"{row['synapses']:,} synapses, {row['plastic_synapses']:,} plastic ({row['layout']}), ", end="")
        print(f"{row['fired']:,} neurons fire, one of {row['groups']} groups")
        for name, value in row["microseconds"].items():
            line = f"  {name:14} {value:8.0f} us a burst"
            if name in RULES:
                line += f", {row['times_without'][name]:.2f} times; {row['bytes_a_plastic_synapse'][name]:.1f} bytes a plastic synapse"
            print(line)
    if options.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        report = {
            "benchmark": "plasticity",
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "workers": None if options.gpu else options.workers,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "commit": commit,
            "date": time.strftime("%Y-%m-%d"),
            "rows": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
