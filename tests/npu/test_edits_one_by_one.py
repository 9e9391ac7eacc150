"""What single edits leave behind is what one edit of many leaves; and how often they look at the whole network."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU, Area, CapacityError, Connectome
from gpu_npu.arrays import sorted_union, sorted_unique, without

N = 40


def network() -> Connectome:
    made = Connectome(N, 100, areas={3: Area(power=True)})
    made.add_neurons(20, threshold=1.0, cortical_area=np.arange(20, dtype=np.uint32) % 5)
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each field of all neurons was fetched."""
    from gpu_npu.backends.reference.reference import Reference

    counted: Counter[str] = Counter()
    read = Reference.read

    def counting(self: Reference, field: str) -> Any:
        counted[field] += 1
        return read(self, field)

    monkeypatch.setattr(Reference, "read", counting)
    return counted


def test_ids_taken_out_of_order_leave_the_others_free(reads: Counter[str]) -> None:
    with NPU.from_connectome(network(), backend="reference") as npu:
        for neuron in (39, 22, 30, 21):
            npu.set_neuron_mapping({neuron: 1})
        assert [npu.add_neuron() for _ in range(3)] == [20, 23, 24]
        assert npu.add_neurons(10).tolist() == [25, 26, 27, 28, 29, 31, 32, 33, 34, 35]
        with pytest.raises(CapacityError, match="4 neurons do not fit: 3 of 40 reserved ids are free"):
            npu.add_neurons(4)
        assert npu.add_neurons(3).tolist() == [36, 37, 38]
        assert reads["created"] == 1


def test_power_neurons_that_are_deleted_one_by_one(reads: Counter[str]) -> None:
    with NPU.from_connectome(network(), backend="reference") as npu:
        npu.set_power_neurons([0, 3, 4])
        assert npu.process_burst().power_injections == 6  # 0, 3, 4, 8, 13, 18
        fetched = reads["cortical_area"]
        for neuron in (3, 8, 18):
            assert npu.delete_neuron(neuron)
        assert npu.process_burst().power_injections == 3
        assert reads["cortical_area"] == fetched
        assert npu.statistics()["power_neurons"] == 4  # one that is on the list stays there


def test_room_in_small_steps_is_made_in_few(monkeypatch: pytest.MonkeyPatch) -> None:
    with NPU(1000, 1000, backend="reference") as npu:
        taken = 0
        for i in range(1000):
            before = npu.neuron_capacity, npu.synapse_capacity
            npu.reserve(neurons=1001 + i, synapses=1001 + i)
            taken += (npu.neuron_capacity, npu.synapse_capacity) != before
            assert npu.neuron_capacity > 1000 + i
            assert npu.synapse_capacity > 1000 + i
        assert taken < 20
        npu.reserve(neurons=5000, synapses=7000)
        assert (npu.neuron_capacity, npu.synapse_capacity) == (5000, 7000)
        assert npu.get_parameter("threshold").shape == (5000,)


def test_sets_as_ascending_arrays() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (rng.integers(0, 30, rng.integers(0, 40)).astype(np.uint32) for _ in range(2))
        assert sorted_unique(a).tolist() == sorted(set(a.tolist()))
        assert sorted_union(a, b).tolist() == sorted({*a.tolist(), *b.tolist()})
        assert without(a, np.sort(b)).tolist() == [x for x in a.tolist() if x not in b.tolist()]
