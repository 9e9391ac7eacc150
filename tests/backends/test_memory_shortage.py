"""Whatever runs out of memory: the call is refused, nothing has changed, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faulty import FaultyCpu

from gpu_npu import NPU, Area, Connectome, DeviceMemoryError, FeagiRule, PairRule, SumOverflowError, WindowRule
from gpu_npu.backends.executor import DevicePlatform, plasticity, rows
from gpu_npu.connectome.generators import fixed_out_degree

Edit = Callable[[NPU], object]


NEURONS, CLOCK = 120, 100
ids = np.arange(NEURONS)
EDITS: dict[str, Edit] = {
    "window rule": lambda npu: npu.register_plasticity(WindowRule(1, 2, window=3, plus=2, minus=1)),
    "a burst": lambda npu: npu.process_burst(),
    "pair rule": lambda npu: npu.register_plasticity(PairRule(0, 1, 5.0, 3.0, 1.5, 1.5, pairing="all")),
    "bursts": lambda npu: npu.run(3),
    "synapses": lambda npu: npu.add_synapses(ids[:60] * 2, ids[::2], 20, 3),
    "more synapses": lambda npu: npu.add_synapses(np.repeat(ids, 12), np.tile(ids[:12] * 10, NEURONS), 20, np.arange(12 * NEURONS) % 5),
    "weights": lambda npu: npu.update_weights(ids[:60] * 2, ids[::2], 77),
    "fewer synapses": lambda npu: npu.remove_synapses(ids[:60] * 2, ids[::2]),
    "power": lambda npu: npu.set_power_neurons(ids[::9]),
    "a burst with power": lambda npu: npu.process_burst(),
    "other power": lambda npu: npu.set_power_neurons(ids[::7]),
    "a burst with other power": lambda npu: npu.process_burst(),
    "power as before": lambda npu: npu.set_power_neurons(ids[::9]),
    "a burst with power as before": lambda npu: npu.process_burst(),
    "as many bursts as the clock counts": lambda npu: npu.run(CLOCK - npu.burst_count),
    "the clock starts again": lambda npu: npu.process_burst(),
    "divided psps": lambda npu: npu.set_area(0, psp_uniform=False),
    "undivided psps": lambda npu: npu.set_area(0, psp_uniform=True),
    "areas": lambda npu: npu.set_parameter("cortical_area", ids[::5], 2),
    "an area": lambda npu: npu.set_area_parameter("cortical_area", 2, 1),
    "thresholds": lambda npu: npu.set_parameter("threshold", ids[::3], 250.0),
    "accumulation": lambda npu: npu.set_parameter("mp_charge_accumulation", ids[::4], False),
    "room": lambda npu: npu.reserve(neurons=300, synapses=20_000),
    "neurons": lambda npu: npu.add_neurons(30, cortical_area=1, threshold=200.0),
    "mapping": lambda npu: npu.set_neuron_mapping({3: 0, 5: 1, 7: 2, 200: 1}),
    "no neurons": lambda npu: npu.delete_neurons(ids[::11]),
    "schedule": lambda npu: npu.schedule_force([npu.burst_count + 1] * 20, ids[:20]),
    "forced": lambda npu: npu.force_fire(ids[::2]),
    "injection": lambda npu: npu.inject(np.tile(ids, 700), 1.0),
    "a burst with it": lambda npu: npu.process_burst(),
    "another rule": lambda npu: npu.register_plasticity(PairRule(1, 1, 4.0, 2.0, 1.0, 1.0)),
    "compaction": lambda npu: npu.rebuild_indexes(),
    "no rule": lambda npu: npu.unregister_plasticity(1),
    "much injection": lambda npu: npu.inject(np.tile(ids, 3_000), 1.0),
    "a burst without": lambda npu: npu.process_burst(),
    "weights asked": lambda npu: npu.synapse_array.weight.sum(),
    "reset": lambda npu: npu.reset(),
    "no rules": lambda npu: [npu.unregister_plasticity(handle) for handle in (0, 2)],
    "a burst without rules": lambda npu: npu.process_burst(),
}

TAKEN_BACK = {"mapping"}
"""Edits of two parts: when the second is refused, the first is taken back, which takes as much as doing it took."""

TAKES_NONE = {
    "a burst",
    "bursts",
    "power",
    "other power",
    "power as before",
    "schedule",
    "forced",
    "injection",
    "no rule",
    "much injection",
    "reset",
    "no rules",
    "a burst without rules",
    "as many bursts as the clock counts",
}
"""What a burst takes up later, the next one is refused."""


def network() -> Connectome:
    return fixed_out_degree(NEURONS, 9, seed=3, weight=(1, 60), psp=(1, 9), threshold=300.0, cortical_area=ids % 3)


def uncounted_by(npu: NPU, device: FaultyCpu) -> int:
    """Bytes in arrays of which the NPU does not tell."""
    told = sum(npu.memory().values())  # first: it hands over what is pending
    return device.allocated - told


@pytest.mark.parametrize("look", [False, True], ids=["unseen", "looked at"])
def test_whatever_does_not_fit_changes_nothing(look: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each call is refused its first array, then its second, and so on until it is done; `look`: after each refusal the whole state is
    compared, which pays what synapses owe; else only what fires, and all at the end."""
    monkeypatch.setattr(rows.RowStore, "CHUNK", 400)
    monkeypatch.setattr(plasticity, "CLOCK_SPAN", CLOCK)
    device = FaultyCpu(workers=1)
    refusals = dict.fromkeys(EDITS, 0)

    def written(npu: NPU) -> bytes:
        npu.snapshot().write(tmp_path / "state")
        return (tmp_path / "state").read_bytes()

    with (
        NPU.from_connectome(network(), backend=DevicePlatform(device), neuron_capacity=150, synapse_capacity=2_600) as npu,
        NPU.from_connectome(network(), backend="reference", neuron_capacity=150, synapse_capacity=2_600) as reference,
    ):
        uncounted = uncounted_by(npu, device)
        for name, edit in EDITS.items():
            device.left, device.once = 0, name in TAKEN_BACK
            before = written(reference)
            while True:
                allowed = device.left
                try:
                    edit(npu)
                    break
                except DeviceMemoryError:
                    refusals[name] += 1
                finally:
                    device.left = None
                assert uncounted_by(npu, device) == uncounted, f"{name}: arrays were not given back"
                if look:
                    assert written(npu) == before, f"{name}, refused its array {allowed}"
                device.left = allowed + 1
            edit(reference)
            assert uncounted_by(npu, device) == uncounted, f"{name}: arrays were not given back"
            if refusals[name]:
                np.testing.assert_array_equal(*(one.process_burst().fired_neurons for one in (npu, reference)), err_msg=name)
        assert written(npu) == written(reference)
        npu.rebuild_indexes()
        assert not npu._resident.open()._rows.read_all()["columns"].any(), "rows have columns, and there is no rule"
    assert {name for name, count in refusals.items() if not count} == TAKES_NONE


def test_a_refused_burst_forgets_no_area_that_drives() -> None:
    """It is refused when it hands over a synapse that was pending."""
    device = FaultyCpu(workers=1)
    with NPU.from_connectome(network(), backend=DevicePlatform(device), synapse_capacity=2_600) as npu:
        npu.set_area(1, power=True)
        npu.add_synapse(1, 2, 3, 4)
        device.left = 0
        with pytest.raises(DeviceMemoryError):
            npu.process_burst()
        device.left = None
        assert npu.process_burst().power_injections == 40


def test_a_clock_that_finds_no_memory_to_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it does, synapses owe nothing, whatever their columns say in bursts of the old one."""
    monkeypatch.setattr(plasticity, "CLOCK_SPAN", 2**17)
    device = FaultyCpu(workers=1)
    with NPU.from_connectome(network(), backend=DevicePlatform(device)) as npu:
        npu.register_plasticity(WindowRule(1, 2, window=3, plus=2, minus=1))
        npu.set_power_neurons(ids[::9])
        npu.run(2**17)
        weights = npu.synapse_array.weight.copy()
        assert weights.any()
        for left in range(1_000):
            device.left = left
            try:
                npu.process_burst()
                break
            except DeviceMemoryError:
                device.left = None
            np.testing.assert_array_equal(npu.synapse_array.weight, weights)
        device.left = None
        assert left


def test_a_clock_without_memory_delivers_what_feagi_rules_hold_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The burst in which it starts again, refused any of its arrays, leaves what the next one delivers as it was."""
    monkeypatch.setattr(rows.RowStore, "CHUNK", 400)
    monkeypatch.setattr(plasticity, "CLOCK_SPAN", CLOCK)

    def written(npu: NPU) -> bytes:
        npu.snapshot().write(tmp_path / "state")
        return (tmp_path / "state").read_bytes()

    device = FaultyCpu(workers=1)
    with (
        NPU.from_connectome(network(), backend=DevicePlatform(device)) as npu,
        NPU.from_connectome(network(), backend="reference") as reference,
    ):
        for one in (npu, reference):
            one.register_plasticity(FeagiRule(1, 2, window=3, up=2.0, down=1.0))
            one.schedule_force(np.repeat([CLOCK - 1, CLOCK], [40, 80]), np.concatenate((ids[::3], ids[40:])))
            one.run(CLOCK)
        before = written(reference)
        assert len(npu.snapshot().flight.learning.delivered), "nothing is held back"
        for left in range(1_000):
            device.left = left
            try:
                npu.process_burst()
                break
            except DeviceMemoryError:
                device.left = None
            assert written(npu) == before, f"refused its array {left}"
        device.left = None
        assert left > 1
        reference.process_burst()
        assert written(npu) == written(reference)


LARGEST = {"weight": 65_535, "psp": 30_000}
LOWERS: dict[str, Edit] = {
    "a smaller weight": lambda npu: npu.update_weights([0], [1], 3_000),
    "undivided psps": lambda npu: npu.set_area(0, psp_uniform=True),
}


@pytest.mark.parametrize("name", LOWERS)
def test_a_refused_edit_makes_no_room_in_the_sums(name: str) -> None:
    """What is known of the largest sum follows the network as it is, not as it would have been."""
    network = Connectome(5, 10, weight_dtype=np.uint16, psp_dtype=np.uint16, areas={0: Area(psp_uniform=False)})
    network.add_neurons(5)
    network.add_synapses([0], [1], *LARGEST.values())
    device = FaultyCpu(workers=1)
    with NPU.from_connectome(network, backend=DevicePlatform(device)) as npu:
        for left in range(1_000):
            device.left = left
            try:
                LOWERS[name](npu)
                break
            except DeviceMemoryError:
                device.left = None
            with pytest.raises(SumOverflowError):
                npu.add_synapses([3], [1], *LARGEST.values())
        device.left = None
        assert left
