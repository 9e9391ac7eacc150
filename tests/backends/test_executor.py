"""What a burst may cost on a device: no allocation, one transfer, fixed launches; and several networks side by side."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from conftest import DeviceFactory

from gpu_npu import NPU
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform, Tuning
from gpu_npu.connectome import Area, Connectome
from gpu_npu.connectome.generators import fixed_out_degree


class CountingDevice(EmulatedDevice):
    """Counts what is asked of it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: Counter[str] = Counter()

    def alloc(self, count: int, dtype: Any) -> Any:
        self.calls["alloc"] += 1
        return super().alloc(count, dtype)

    def upload(self, array: Any, host: Any, at: int = 0) -> None:
        self.calls["upload"] += 1
        super().upload(array, host, at)

    def download(self, array: Any, host: Any, at: int = 0) -> None:
        self.calls["download"] += 1
        super().download(array, host, at)

    def wait(self, mark: Any = None) -> None:
        self.calls["wait"] += 1
        super().wait(mark)

    def launch(self, launches: Any) -> None:
        self.calls["launch"] += 1
        self.calls["kernels"] += len(launches)
        super().launch(launches)


def network(neurons: int = 200, seed: int = 0) -> Connectome:
    synapses: dict[str, Any] = {"weight": (1, 30), "psp": (1, 9), "inhibitory_fraction": 0.2}
    return fixed_out_degree(neurons, 20, seed=seed, **synapses, threshold=60.0, refractory_period=1)


def test_a_burst_is_one_launch_and_no_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fired ids and counters come back in memory that the kernel writes and the host reads."""
    device = CountingDevice(block=32)
    with NPU.from_connectome(network(), backend=DevicePlatform(device)) as npu:
        npu.set_power_neurons([1, 2, 3])
        npu.set_power_amount(100.0)
        npu.process_burst()
        device.calls.clear()
        for _ in range(5):
            npu.process_burst()
        assert device.calls == {"wait": 5, "launch": 5, "kernels": 5}
        device.calls.clear()
        for number in range(5):
            npu.inject([5, 6, number], [1.0, 2.0, 70.0])
            npu.force_fire([7])
            npu.process_burst()
        # Ids, potentials and forced ids go up.
        assert device.calls == {"upload": 15, "wait": 5, "launch": 5, "kernels": 5 * 3}
        device.calls.clear()
        monkeypatch.setattr("gpu_npu.backends.executor.bursts.LAUNCH_NANOSECONDS", 10**15)  # however slow this machine is
        npu.run(20)
        assert device.calls == {"wait": 1, "launch": 1, "kernels": 1}


def test_more_fired_than_the_ring_holds() -> None:
    device = CountingDevice(block=32)
    with (
        NPU.from_connectome(network(), backend=DevicePlatform(device, Tuning(ring=(3, 10)))) as npu,
        NPU.from_connectome(network(), backend="reference") as reference,
    ):
        for count in (0, 9, 10, 11, 150):
            device.calls.clear()
            for each in (npu, reference):
                each.force_fire(np.arange(count))
            ours, theirs = npu.process_burst(), reference.process_burst()
            np.testing.assert_array_equal(ours.fired_neurons, theirs.fired_neurons)
            assert device.calls["download"] == (0 if ours.neuron_count <= 10 else 1)


def test_timing_phases_changes_no_result(device_factory: DeviceFactory) -> None:
    plain, timed = (NPU.from_connectome(network(), backend=DevicePlatform(device_factory())) for _ in range(2))
    with plain, timed:
        timed.time_phases(True)
        for npu in (plain, timed):
            npu.set_power_neurons(np.arange(50))
            npu.set_power_amount(61.0)
        assert plain.run(50, digest=True).digest == timed.run(50, digest=True).digest
        seconds = timed.phase_seconds
        assert seconds is not None
        assert set(seconds) == {"injection", "propagation", "dynamics", "archival", "transfer"}
        assert all(value > 0 for value in seconds.values())
        timed.time_phases(False)
        assert timed.phase_seconds is None


def test_networks_side_by_side_do_not_meet(device_factory: DeviceFactory) -> None:
    """Bursts of three NPUs in turn give what each gives alone, on one device kind and on several."""

    def digests(interleaved: bool) -> list[str]:
        npus = [
            NPU.from_connectome(network(100 + 50 * k, seed=k), backend=DevicePlatform(device))
            for k, device in enumerate((device_factory(), device_factory(), EmulatedDevice(block=64)))
        ]
        for npu in npus:
            npu.set_power_neurons(np.arange(30))
            npu.set_power_amount(61.0)
        fired: list[list[bytes]] = [[] for _ in npus]
        rounds = [(k, 1) for _ in range(20) for k in range(3)] if interleaved else [(k, 20) for k in range(3)]
        for k, bursts in rounds:
            npus[k].run(bursts, lambda result, k=k: fired[k].append(result.fired_neurons.tobytes()))
        for npu in npus:
            npu.close()
        return [b"|".join(parts).hex() for parts in fired]

    assert digests(True) == digests(False)


def test_injection_where_the_arrays_are(device_factory: DeviceFactory) -> None:
    """What one NPU fired is injected into another on the same device, without a way through the host."""
    device = device_factory()
    npu = NPU.from_connectome(network(), backend=DevicePlatform(device))
    potentials = device.alloc(3, np.float32)
    device.upload(potentials, np.array([70, 80, 90], np.float32))
    npu.force_fire([4, 9, 100])
    npu.process_burst()
    npu.inject(npu.fired_on_device(), device.view(potentials, 0, 3))
    npu.inject([9], [5.0])  # after the device's, in order
    npu.process_burst()
    candidates = npu.fire_candidate_list
    external = {4: 70.0, 9: 85.0, 100: 90.0}
    with NPU.from_connectome(network(), backend="reference") as reference:
        reference.force_fire([4, 9, 100])
        reference.process_burst()
        for neuron, potential in external.items():
            reference.inject([neuron], [potential])
        reference.process_burst()
        expected = reference.fire_candidate_list
    np.testing.assert_array_equal(candidates.neurons, expected.neurons)
    np.testing.assert_array_equal(candidates.potentials, expected.potentials)
    npu.close()


def test_no_neurons_at_all(device_factory: DeviceFactory) -> None:
    with NPU(backend=DevicePlatform(device_factory())) as npu:
        assert npu.process_burst().neuron_count == 0
        npu.reserve(neurons=3, synapses=1)
        npu.add_neurons(2, threshold=1.0)
        npu.add_synapse(0, 1, 3, 3)
        npu.force_fire([0])
        assert npu.process_burst().fired_neurons.tolist() == [0]
        assert npu.process_burst().fired_neurons.tolist() == [1]


def test_areas_of_ids_that_do_not_exist_yet(device_factory: DeviceFactory) -> None:
    """Flags of an area reach neurons that are created, moved and reserved later."""
    areas = {3: Area(psp_uniform=False)}
    backends = (DevicePlatform(device_factory()), "reference")
    seen = []
    for backend in backends:
        with NPU(4, 20, areas=areas, backend=backend) as npu:
            npu.add_synapses([0, 0, 1, 1], [2, 2, 3, 3], 10, 10)
            npu.add_neuron(cortical_area=3)
            npu.reserve(neurons=6)
            npu.add_neurons(3)
            npu.set_neuron_mapping({5: 3, 1: 3})
            npu.set_area(3, mp_driven_psp=True)
            npu.force_fire([0, 1])
            npu.process_burst()
            npu.process_burst()
            seen.append((npu.fire_candidate_list.neurons.tolist(), npu.fire_candidate_list.potentials.tolist()))
    assert seen[0] == seen[1] == ([2, 3], [1000.0, 1000.0])
