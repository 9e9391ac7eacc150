"""A small run that meets every kernel, for tools that make a run very much slower (compute-sanitizer).

    python -m profiling.small_run [--backend cuda] [--device N] [--barrier-seconds S]

Some golden cases, then bursts and edits of every kind, held to the reference. On a GPU CuPy's memory pool is left out, so
that every array is an allocation of its own and a step beyond its end is seen.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu_npu import NPU, STATE_FIELDS, Area, Connectome, FeagiRule, NpuError, PairRule, PlasticityRule, WindowRule
from gpu_npu.backends import kernels
from gpu_npu.backends.base import Platform
from gpu_npu.doctor import small_network
from profiling import bench, workloads

CASES = ("edits", "edge_forced_feagi_2_6")
BURSTS = 4
RULES = (WindowRule(0, 1, 2, 3, 1), PairRule(1, 0, 2.5, 1.5, 20.0, 30.0, pairing="all"))
ALONE = FeagiRule(0, 1, 2, 3, 1)
"""Which takes no other kind of rule beside it."""


def script(npu: NPU, on_device: Callable[[Any], Any]) -> tuple[list[str], list[bytes]]:
    """Everything that can be done to a network, with bursts in between: digests, and the state at the end."""
    rng = np.random.default_rng(3)
    pairs = rng.integers(0, 300, (2, 400), dtype=np.uint32)
    digests = []

    def bursts() -> None:
        npu.inject(np.arange(40), 3.5)
        npu.force_fire([250, 251])
        digests.append(npu.run(BURSTS, digest=True).digest)

    bursts()
    npu.add_synapses(pairs[0], pairs[1], rng.integers(1, 9, 400), 2, rng.random(400) < 0.2)
    bursts()
    npu.update_weights(pairs[0, :200], pairs[1, :200], rng.integers(1, 99, 200))
    npu.remove_synapses(pairs[0, 100:], pairs[1, 100:])
    bursts()
    npu.add_neurons(5, threshold=2.0)
    npu.delete_neuron(17)
    npu.set_parameter("threshold", np.arange(50), 4.0)
    npu.set_area_parameter("leak_coefficient", 2, 0.2)
    npu.set_area(1, psp_uniform=False, mp_driven_psp=True)
    npu.reserve(neurons=400, synapses=20_000)
    bursts()
    npu.rebuild_indexes()
    npu.inject(on_device(np.arange(60, 90, dtype=np.uint32)), on_device(np.full(30, 2.5, np.float32)))
    bursts()
    npu.outgoing_synapses([3, 4])
    npu.incoming_synapses([5])
    npu.schedule(npu.burst_count + np.arange(1, 61) % BURSTS + 1, np.arange(60), 2.5)
    npu.schedule_force(npu.burst_count + 2, [7, 8])
    bursts()
    npu.time_phases(True)  # each phase a launch of its own
    npu.inject(np.arange(40), 3.5)
    for _ in range(2):
        digests.append(str(npu.process_burst().fired_neurons))
    npu.time_phases(False)
    state = [npu.get_parameter(field).tobytes() for field in STATE_FIELDS]
    npu.reset()
    bursts()
    return digests, state


def generated(make: Callable[[], Platform]) -> str:
    """The digest of a network whose synapses are made on the device."""
    network = workloads.silent(300, 20)
    with network.on(make) as npu:
        workloads.arm(npu, 30)
        return npu.run(BURSTS, digest=True).digest


def learning(make: Callable[[], Platform], *rules: PlasticityRule) -> tuple[str, list[str], bytes]:
    """These rules, phase by phase too, and what a checkpoint carries to another NPU: digest, what fired, weights."""
    with NPU.from_connectome(small_network(), backend=make) as npu:
        for rule in rules:
            npu.register_plasticity(rule)
        npu.inject(np.arange(40), 3.5)
        digest = npu.run(2 * BURSTS, digest=True).digest
        npu.time_phases(True)
        fired = [str(npu.process_burst().fired_neurons) for _ in range(2)]
        npu.time_phases(False)
        snapshot = npu.snapshot()
    with NPU.from_snapshot(snapshot, backend=make) as npu:
        return digest + npu.run(BURSTS, digest=True).digest, fired, npu.outgoing_synapses(np.arange(300)).weight.tobytes()


def degenerating(make: Callable[[], Platform]) -> tuple[str, bytes]:
    """An area whose psps fall as its neurons fire: digest, psps after a reset."""
    network = Connectome(40, 200, psp_dtype=np.float32, areas={0: Area(degeneration=0.25)})
    network.add_neurons(40, threshold=2.0)
    source, target = np.repeat(np.arange(20, dtype=np.uint32), 10), np.arange(200, dtype=np.uint32) % 40
    network.add_synapses(source, target, 3, np.where(source < 10, np.float32(1.5), target / np.float32(8)))
    with NPU.from_connectome(network, backend=make) as npu:
        npu.inject(np.arange(20), 3.5)
        digest = npu.run(BURSTS, digest=True).digest
        npu.force_fire(np.arange(20))
        npu.run(1)
        npu.reset()
        return digest, npu.outgoing_synapses(np.arange(20)).psp.tobytes()


def delayed(make: Callable[[], Platform]) -> tuple[list[str], str]:
    """Spikes that are under way for one burst and for three, phase by phase and in one launch."""
    network = Connectome(40, 200)
    network.add_neurons(40, threshold=2.0)
    source, target = np.repeat(np.arange(20, dtype=np.uint32), 10), np.arange(200, dtype=np.uint32) % 40
    network.add_synapses(source, target, 3, 1, delay=np.where(target % 2, 3, 1))
    with NPU.from_connectome(network, backend=make) as npu:
        npu.time_phases(True)
        npu.inject(np.arange(20), 3.5)
        fired = [str(npu.process_burst().fired_neurons) for _ in range(BURSTS)]
        npu.time_phases(False)
        return fired, npu.run(BURSTS, digest=True).digest


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=workloads.BACKENDS, default="cuda", help="(%(default)s)")
    parser.add_argument("--device", type=int, help="number of the GPU")
    parser.add_argument("--barrier-seconds", type=float, help="kernels whose blocks wait longer for one another end as an error")
    options = parser.parse_args(arguments)
    kernels.BARRIER_SECONDS = options.barrier_seconds
    on_device: Callable[[Any], Any] = np.asarray
    if options.backend == "cuda":
        cupy = importlib.import_module("cupy")
        cupy.cuda.set_allocator(None)
        on_device = cupy.asarray
    make = workloads.maker(options.backend, options.device)

    def outcome(make: Callable[[], Platform], place: Callable[[Any], Any]) -> tuple[Any, ...]:
        with NPU.from_connectome(small_network(), backend=make, neuron_capacity=320, synapse_capacity=10_000) as npu:
            return (*script(npu, place), generated(make), learning(make, *RULES), learning(make, ALONE), degenerating(make), delayed(make))

    try:
        count = bench.golden(options.backend, options.device, CASES)
        if outcome(make, on_device) != outcome(workloads.maker("reference"), np.asarray):
            print("Error: other spikes or another state than the reference", file=sys.stderr)
            return 1
    except (AssertionError, NpuError) as error:
        print(f"Error: {str(error).strip() or type(error).__name__}", file=sys.stderr)
        return 1
    print(f"{count} golden cases, and {18 * BURSTS + 7} bursts with edits and plasticity, are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
