"""Plasticity on a device, beyond what tests/agreement/test_plasticity.py asks of every backend: what synapses owe, and what it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EMULATED, cpu_backend, emulated_backend
from networks import PLASTIC, Maker, Plan, assert_equal, joined, perform

from gpu_npu import NPU, Connectome, DeviceMemoryError, NetworkError, PairRule, WindowRule
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform, incoming, plasticity
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.connectome.plasticity import CustomRule
from profiling import bench_plasticity

Factory = Callable[[], Any]
DEVICES: dict[str, Factory] = {"cpu": cpu_backend, "emulated": lambda: emulated_backend(*EMULATED["emulated-64-unpacked"])}
devices = pytest.mark.parametrize("make", DEVICES.values(), ids=DEVICES)


def small(**neurons: Any) -> Connectome:
    return fixed_out_degree(200, 12, seed=3, weight=(1, 60), psp=(1, 9), threshold=300.0, **neurons)


@devices
@pytest.mark.parametrize("seed", range(8))
def test_what_nobody_looks_at_for_long_is_right_when_somebody_does(make: Factory, seed: int) -> None:
    """Rules and edits come and go; weights are asked for at the very end."""
    switches = {PLASTIC, "power", "forced", "deleted", "inhibitory", "refractory"} | ({"synapse_edits", "writes"} if seed % 2 else set())
    plan = Plan(1000 + seed, (20, 33, 100, 8)[seed % 4], 3, (4, 10)[seed % 2], (0, 40)[seed % 2], 30, frozenset(switches))
    maker = Maker(plan)
    shape, script = maker.shape(2), maker.make_script()
    backends = [platform.load(maker.connectome, shape) for platform in (make(), ReferencePlatform())]
    for backend in backends:
        for name, arguments in script:
            perform(backend, name, arguments)
    subject, oracle = backends
    assert_equal(subject.residues(), oracle.residues(), f"{plan}: residues")
    assert_equal(joined(subject.synapses_from()), joined(oracle.synapses_from()), f"{plan}: weights")
    subject.close()


def silent_source(weight: int) -> NPU:
    """Neuron 0 is silent, neuron 1 fires when it is told to; one synapse from 0 to 1, with u16 weights."""
    connectome = Connectome(2, 1, weight_dtype=np.uint16)
    connectome.add_neurons(2, threshold=1e30, cortical_area=[1, 2])
    connectome.add_synapses([0], [1], weight, 1)
    npu = NPU.from_connectome(connectome, backend=cpu_backend)
    npu.register_plasticity(WindowRule(1, 2, window=1, plus=0, minus=1))
    return npu


@pytest.mark.parametrize(("every", "bursts", "left"), [(1, 66_000, 0), (2, 70_000, 30_535), (1, 65_534, 1)])
def test_a_debt_does_not_outgrow_its_16_bits(every: int, bursts: int, left: int) -> None:
    """The target fires in every burst, or in every other; the source never does."""
    with silent_source(65_535) as npu:
        times = np.arange(every, bursts + 1, every)
        npu.schedule_force(times, np.ones_like(times))
        npu.run(bursts)
        assert npu.synapse_array.weight.tolist() == [left]


@devices
def test_the_clock_starts_again(make: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after 2**31 bursts, with rules that remember less than that."""
    monkeypatch.setattr(plasticity, "CLOCK_SPAN", 100)
    weights = []
    for backend in (make, "reference"):
        with NPU.from_connectome(small(), backend=backend) as npu:
            npu.register_plasticity(WindowRule(0, 0, 3, 2, 1))
            npu.register_plasticity(PairRule(0, 0, 3.0, 2.5, 1.5, 0.7, pairing="all"))
            rng = np.random.default_rng(1)
            for _ in range(12):
                first = npu.burst_count + 1
                npu.schedule_force(first + rng.integers(0, 30, 400), rng.integers(0, 200, 400))
                npu.run(30)
            weights.append((npu.synapse_array.weight.copy(), npu.snapshot().flight.learning.residues))
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(weights[0][0])) > 10


@devices
def test_a_network_without_rules_has_nothing_of_them(make: Factory) -> None:
    with NPU.from_connectome(small(), backend=make) as npu:
        before = npu.memory()
        handles = [npu.register_plasticity(rule) for rule in (WindowRule(0, 0, 3, 2, 1), PairRule(0, 0, 1.0, 1.0, 9.0, 9.0))]
        npu.run(3)
        learning = npu.memory()
        assert set(learning) == {*before, "plasticity"}
        assert learning["rows"] > before["rows"]
        for handle in handles:
            npu.unregister_plasticity(handle)
        npu.run(1)
        npu.rebuild_indexes()
        after = npu.memory()
        assert after == {**before, "rows": after["rows"]}


def test_a_synapse_is_found_in_a_row_longer_than_a_guess_can_say() -> None:
    """From one source to 70,000 targets, of which the last fire after it; then again after the row has moved."""
    targets = np.arange(1, 70_001)
    connectome = Connectome(70_001, 80_000)
    connectome.add_neurons(70_001, threshold=1e30)
    connectome.add_synapses(np.zeros_like(targets), targets, 100, 1)
    weights = []
    for backend in (cpu_backend, "reference"):
        with NPU.from_connectome(connectome, backend=backend) as npu:
            npu.register_plasticity(PairRule(0, 0, a_plus=3.0, a_minus=1.0, tau_plus=5.0, tau_minus=5.0))
            for extra in (0, 40):
                npu.add_synapses(np.zeros(extra, int), targets[:extra], 50, 1)
                first = npu.burst_count + 1
                npu.schedule_force([first, *(first + 1 + np.arange(60) // 20)], [0, *targets[-60:]])
                npu.run(5)
            weights.append(npu.synapse_array.weight.copy())
    np.testing.assert_array_equal(*weights)
    assert np.count_nonzero(weights[0] > 100) == 60


def test_a_rule_that_does_not_fit_changes_nothing() -> None:
    device = EmulatedDevice(block=64)
    with (
        NPU.from_connectome(small(), backend=lambda: DevicePlatform(device)) as npu,
        NPU.from_connectome(small(), backend="reference") as reference,
    ):
        device._limit = device.allocated + 1000
        with pytest.raises(DeviceMemoryError):
            npu.register_plasticity(PairRule(0, 0, 1.0, 1.0, 9.0, 9.0))
        assert npu.plasticity == {}
        device._limit = None
        for one in (npu, reference):
            one.schedule_force(np.arange(1, 21), np.arange(20) * 7)
        assert npu.run(20, digest=True).digest == reference.run(20, digest=True).digest
        np.testing.assert_array_equal(npu.synapse_array.weight, reference.synapse_array.weight)


def test_an_edit_that_does_not_fit_changes_nothing() -> None:
    """Whatever the edit runs out of memory for: rows, or the index of incoming synapses."""
    device = EmulatedDevice(block=64)
    refused = 0
    with (
        NPU.from_connectome(small(), backend=lambda: DevicePlatform(device), synapse_capacity=10_000) as npu,
        NPU.from_connectome(small(), backend="reference", synapse_capacity=10_000) as reference,
    ):
        for one in (npu, reference):
            one.register_plasticity(PairRule(0, 0, a_plus=5.0, a_minus=1.0, tau_plus=9.0, tau_minus=9.0))
            one.schedule_force(np.arange(1, 31), np.arange(30) * 7 % 200)
            one.run(1)
        source, target = np.arange(7, 207, 7) % 200, np.arange(14, 214, 7) % 200
        count = npu.get_synapse_count()
        for slack in range(0, 10**6, 499):
            device._limit = device.allocated + slack
            try:
                npu.add_synapses(source, target, 10, 1)
                break
            except DeviceMemoryError:
                refused += 1
                assert npu.get_synapse_count() == count
        device._limit = None
        reference.add_synapses(source, target, 10, 1)
        assert npu.run(40, digest=True).digest == reference.run(40, digest=True).digest
        assert npu.get_synapse_count() == reference.get_synapse_count() == count + len(source)
        np.testing.assert_array_equal(npu.synapse_array.weight, reference.synapse_array.weight)
    assert refused > 10


def test_the_index_of_incoming_synapses_stays_in_order() -> None:
    """Many sources of one neuron, added in batches that lie between one another."""
    sources, weights = np.arange(1, 4_001), []
    for backend in (cpu_backend, "reference"):
        connectome = Connectome(4_001, 10_000)
        connectome.add_neurons(4_001, threshold=1e30)
        with NPU.from_connectome(connectome, backend=backend) as npu:
            npu.register_plasticity(PairRule(0, 0, a_plus=5.0, a_minus=1.0, tau_plus=9.0, tau_minus=9.0))
            npu.run(1)
            for first in (3, 1, 2, 2, 0):
                part = sources[first::4]
                npu.add_synapses(part, np.zeros_like(part), 10, 1)
                npu.remove_synapses(part[::3], np.zeros_like(part[::3]))
                npu.force_fire(part[:50])
                npu.run(1)
                npu.force_fire([0])
                npu.run(1)
                if backend is cpu_backend:
                    index = npu._resident.open()._plasticity._incoming._rows
                    assert index.longest_tail(np.zeros(1, np.uint32)) <= incoming.MAX_TAIL
            weights.append(npu.synapse_array.weight.copy())
            if backend is cpu_backend:
                npu.rebuild_indexes()
                assert index.longest_tail(np.zeros(1, np.uint32)) == 0
    np.testing.assert_array_equal(*weights)
    assert len(np.unique(weights[0])) > 1


def test_neurons_of_other_areas_come_and_go_for_nothing() -> None:
    with NPU.from_connectome(small(cortical_area=1), backend=cpu_backend, neuron_capacity=300) as npu:
        npu.register_plasticity(PairRule(1, 1, a_plus=5.0, a_minus=1.0, tau_plus=9.0, tau_minus=9.0))
        npu.run(1)
        rules = npu._resident.open()._plasticity
        ids = npu.add_neurons(3, cortical_area=7)
        npu.set_parameter("cortical_area", ids, 8)
        npu.set_area_parameter("cortical_area", 8, 9)
        assert not rules.stale
        npu.set_parameter("cortical_area", ids[:1], 1)
        assert rules.stale
        npu.run(1)
        npu.set_parameter("cortical_area", ids[:1], 9)
        assert rules.stale


def test_a_rule_in_python_is_for_the_reference() -> None:
    class Nothing(CustomRule):
        name = "nothing"

        def apply(self, burst: int, synapses: Any, weight: Any, source_fired: Any, target_fired: Any) -> Any:
            return weight

    with NPU.from_connectome(small(), backend=cpu_backend) as npu, pytest.raises(NetworkError, match="take backend='reference'"):
        npu.register_plasticity(Nothing(0, 0))


def test_the_benchmark_runs(tmp_path: Path) -> None:
    assert bench_plasticity.main(["--quick", "--rounds", "1", "--json", str(tmp_path / "new" / "figures.json")]) == 0
    rows = json.loads((tmp_path / "new" / "figures.json").read_text())["rows"]
    assert {(row["synapses"], row["fired"]) for row in rows} == {(100_000, 20)}
    assert [(row["layout"], row["plastic_synapses"], row["groups"]) for row in rows] == [
        *((layout, plastic, 5) for layout in ("spread", "dense") for plastic in (10_000, 5_000)),
        *((layout, 10_000, 100) for layout in ("spread", "scattered", "dense")),
    ]
    assert all(set(row["times_without"]) == set(bench_plasticity.RULES) for row in rows)


def test_the_benchmark_runs_as_on_a_gpu() -> None:
    for layout, share, groups in bench_plasticity.cases("cuda"):
        row = bench_plasticity.compare(layout, share, 1, cpu_backend, neurons=1_000, degree=20, groups=groups, kinds=("window of 20",))
        assert (row["plastic_synapses"], row["groups"], set(row["times_without"])) == (20_000, groups, {"window of 20"})
