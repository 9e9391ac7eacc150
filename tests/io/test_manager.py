"""Networks from objects that hold them, as FEAGI's connectome manager does."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_npu import NetworkError, NeuronIndexError
from gpu_npu.io.manager import connectome_of


@dataclass
class Brain:
    """A connectome manager."""

    neurons: dict[int, Any]
    synapses: Any
    neuron_count: int = 10
    synapse_capacity: int = 20
    other: dict[str, int] = field(default_factory=dict)


def test_objects_mappings_and_tuples() -> None:
    neurons = {
        5: SimpleNamespace(threshold=2.5, leak_rate=0.25, cortical_area=3, coordinates=(1, 2, 3), colour="red"),
        2: {"leak_coefficient": 0.5, "refractory_periods": 4},
        0: SimpleNamespace(),
    }
    synapses = [
        (0, 5, 10, 3, 1),
        [2, 5, 11, 4],
        SimpleNamespace(source=5, target=0, weight=12, conductance=5, type=1),
        {"source_neuron": 5, "target_neuron": 9, "weight": 13, "psp": 6, "syn_type": 0},
    ]
    network = connectome_of(Brain(neurons, synapses))
    assert (network.neuron_capacity, network.synapse_capacity, network.neuron_count) == (10, 20, 3)
    assert network.neurons.threshold[[5, 2, 0]].tolist() == [2.5, 1, 1]
    assert network.neurons.leak_coefficient[[5, 2, 0]].tolist() == [0.25, 0.5, 0]
    assert network.neurons.refractory_period[[5, 2, 0]].tolist() == [0, 4, 0]
    assert network.neurons.cortical_area[[5, 2, 0]].tolist() == [3, 0, 0]
    assert network.neurons.coordinates[[5, 2]].tolist() == [[1, 2, 3], [0, 0, 0]]
    held = network.synapses
    columns = zip(held.source, held.target, held.weight, held.psp, held.inhibitory, strict=True)
    assert [tuple(map(int, row)) for row in columns] == [(0, 5, 10, 3, 1), (2, 5, 11, 4, 0), (5, 0, 12, 5, 1), (5, 9, 13, 6, 0)]
    assert connectome_of(Brain({}, dict(enumerate(synapses)))).synapse_count == 4


@pytest.mark.parametrize(
    ("brain", "error", "message"),
    [
        (
            object(),
            NetworkError,
            r"a object cannot be read as a network: it lacks the attributes neurons, synapses, neuron_count, synapse_capacity",
        ),
        (Brain({10: {}}, []), NeuronIndexError, r"10 is not a neuron id"),
        (Brain({"a": {}}, []), NetworkError, r"neurons: 'a' is not an integer id"),
        (Brain({1: {"threshold": "high"}}, []), NetworkError, r"threshold"),
        (Brain({}, [(1, 2, 3)]), NetworkError, r"synapses\[0\]: \(1, 2, 3\) is not \(source, target, weight, conductance, type\)"),
        (Brain({}, [{"source": 1, "target": 2, "weight": 3}]), NetworkError, r"synapses\[0\]: this dict has no conductance"),
        (Brain({}, [(1, 2, 300, 1, 0)]), NetworkError, r"weight"),
        (Brain({}, [(1, 2, 3, 1, 2)]), NetworkError, r"inhibitory"),
    ],
)
def test_what_is_no_network(brain: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        connectome_of(brain)
