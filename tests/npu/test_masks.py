"""Wherever an NPU, a connectome or an engine takes ids, it takes a mask, and nothing that is masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU, Area, BurstEngine, Connectome, NetworkError
from gpu_npu.connectome.generators import fixed_out_degree

IDS = np.array([2, 5, 6])
MASK = np.isin(np.arange(12), IDS)
HIDDEN = np.ma.masked_array(IDS, mask=[False, True, False])
METHODS: dict[str, Callable[[NPU, Any], object]] = {
    "inject": lambda npu, ids: npu.inject(ids, [3.0, 4.0, 5.0]),
    "inject one": lambda npu, ids: npu.inject(ids, 9.0),
    "force_fire": lambda npu, ids: npu.force_fire(ids),
    "schedule": lambda npu, ids: npu.schedule(3, ids, 9.0),
    "schedule_force": lambda npu, ids: npu.schedule_force([2, 3, 4], ids),
    "power": lambda npu, ids: npu.set_power_neurons(ids),
    "power of one burst": lambda npu, ids: npu.process_burst(power_neurons=ids),
    "set_parameter": lambda npu, ids: npu.set_parameter("threshold", ids, [1.0, 2.0, 3.0]),
    "set_neuron_mapping": lambda npu, ids: npu.set_neuron_mapping(ids, [4, 4, 7]),
    "delete_neurons": lambda npu, ids: npu.delete_neurons(ids),
    "add_synapses": lambda npu, ids: npu.add_synapses(ids, [1, 2, 3], 5, 1),
    "targets": lambda npu, ids: npu.add_synapses(0, ids, [5, 6, 7], 1),
    "remove_synapses": lambda npu, ids: npu.remove_synapses(ids, ids),
    "update_weights": lambda npu, ids: npu.update_weights(ids, ids, 9),
}
LOOKS: dict[str, Callable[[NPU, Any], Any]] = {
    "get_parameter": lambda npu, ids: npu.get_parameter("threshold", ids).tolist(),
    "outgoing": lambda npu, ids: npu.outgoing_synapses(ids).target.tolist(),
    "incoming": lambda npu, ids: npu.incoming_synapses(ids).source.tolist(),
}


def network() -> Connectome:
    made = fixed_out_degree(12, 3, seed=2, threshold=2.0, areas={1: Area("power", power=True)})
    made.reserve(synapses=100)
    return made


def after(use: Callable[[NPU, Any], object], ids: Any) -> list[Any]:
    with NPU.from_connectome(network(), backend="reference") as npu:
        answer = use(npu, ids)
        run = npu.run(6, digest=True)
        told = answer.tolist() if isinstance(answer, np.ndarray) else None
        return [told, run.digest, npu.get_parameter("threshold").tolist(), npu.neuron_array.cortical_area.tolist(), npu.get_synapse_count()]


@pytest.mark.parametrize("name", METHODS)
def test_a_mask_is_the_ids_where_it_is_true(name: str) -> None:
    assert after(METHODS[name], MASK) == after(METHODS[name], IDS) != after(lambda npu, ids: None, None)


@pytest.mark.parametrize("name", LOOKS)
def test_masks_look(name: str) -> None:
    with NPU.from_connectome(network(), backend="reference") as npu:
        assert LOOKS[name](npu, MASK) == LOOKS[name](npu, IDS) != []


@pytest.mark.parametrize("name", [*METHODS, *LOOKS])
def test_masks_of_another_length_and_masked_ids_change_nothing(name: str) -> None:
    use = (METHODS | LOOKS)[name]

    def refused(npu: NPU, ids: Any) -> None:
        with pytest.raises(NetworkError, match=r"a mask of 11 booleans; a mask has one for each of the 12 ids"):
            use(npu, MASK[:-1])
        with pytest.raises(NetworkError, match=r"1 of 3 values are masked.*; \.compressed\(\) leaves them out"):
            use(npu, HIDDEN)

    assert after(refused, None) == after(lambda npu, ids: None, None)


def test_connectomes_and_engines_take_masks_too() -> None:
    made = network()
    made.write("threshold", MASK, 7.0)
    assert np.flatnonzero(made.neurons.threshold == 7.0).tolist() == IDS.tolist()
    assert made.delete_neurons(MASK).all() and not made.neurons.valid[IDS].any()
    with BurstEngine(network(), backend="reference") as engine:
        engine.force_fire(MASK)
        assert set(IDS) <= set(engine.step().fired_neurons.tolist())
        engine.inject(MASK, 100.0)
        with pytest.raises(NetworkError, match="masked"):
            engine.inject(HIDDEN, 1.0)
        assert engine.step().sensory_injections == 3


ONES: dict[str, Callable[[NPU], object]] = {
    "add_synapse": lambda npu: npu.add_synapse(True, 0, 3, 4),
    "its target": lambda npu: npu.add_synapse(0, np.True_, 3, 4),  # type: ignore[arg-type]
    "remove_synapse": lambda npu: npu.remove_synapse(0, True),
    "update_weight": lambda npu: npu.update_weight(True, 0, 9),
    "delete_neuron": lambda npu: npu.delete_neuron(True),
    "among ids": lambda npu: npu.inject([True, 0], 3.0),
    "among potentials": lambda npu: npu.inject([0, 0], [2.0, False]),
    "in a list of masks": lambda npu: npu.inject([np.array([True])], 3.0),
}


@pytest.mark.parametrize("name", ONES)
def test_true_is_no_number(name: str) -> None:
    """Of a network with one neuron, a list of one boolean is a mask; one boolean alone, or beside numbers, is a mistake."""
    with NPU(1, 9, backend="reference") as npu:
        npu.add_neuron()
        npu.add_synapse(0, 0, 3, 4)
        with pytest.raises(NetworkError, match="True|False|flat"):
            ONES[name](npu)
        assert npu.get_synapse_count() == 1 and npu.synapse_array.weight.tolist() == [3]
        assert npu.process_burst().sensory_injections == 0
