"""The connectome's edits against a plain Python model, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_npu.connectome import (
    NEURON_FIELDS,
    Area,
    CapacityError,
    Connectome,
    NetworkError,
    NeuronIndexError,
    Rules,
    Settings,
    SumOverflowError,
    SynapseBatch,
)

N = 4
PAIRS = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1), st.integers(0, 255)), max_size=12)
EDITS = st.lists(st.tuples(st.sampled_from(["add", "add_one", "remove", "reweight", "compact", "reserve"]), PAIRS), max_size=8)


def columns(rows: list[tuple[int, int, int]]) -> tuple[list[int], list[int], list[int]]:
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def small() -> Connectome:
    network = Connectome(10, 10)
    network.add_neurons(4, threshold=5)
    network.add_synapses([0, 1, 1], [1, 2, 2], [5, 6, 7], 1)
    return network


def everything(network: Connectome) -> list[Any]:
    """All that a network holds, to compare."""
    synapses = network.synapses
    return [
        *(array.tobytes() for array in network.neurons.arrays()),
        *(array.tobytes() for array in synapses.arrays()),
        *(synapses.count, network.neuron_capacity, network.synapse_capacity, dict(network.areas), network.settings, network.frozen),
    ]


@given(EDITS)
def test_synapse_edits_one_by_one(edits: list[tuple[str, list[tuple[int, int, int]]]]) -> None:
    """Add, remove and reweight in bulk do what a loop over a list, oldest first, does."""
    network = Connectome(N, 200)
    model: list[list[int]] = []
    for edit, rows in edits:
        source, target, weight = columns(rows)
        if edit == "add":
            network.add_synapses(source, target, weight, 2, [w % 2 == 1 for w in weight])
            model += [[s, t, w, w % 2] for s, t, w in rows]
        elif edit == "add_one":
            for s, t, w in rows:
                network.add_synapse(s, t, w, 2, w % 2 == 1)
                model.append([s, t, w, w % 2])
        elif edit == "compact":
            network.compact()
            assert network.synapses.count == len(model)
        elif edit == "reserve":
            network.reserve(synapses=network.synapse_capacity + 1)
        else:
            expected = []
            for s, t, w in rows:
                found = next((row for row in model if row[:2] == [s, t]), None)
                expected.append(found is not None)
                if found is not None and edit == "remove":
                    model.remove(found)
                elif found is not None:
                    found[2] = w
            said = network.remove_synapses(source, target) if edit == "remove" else network.reweight_synapses(source, target, weight)
            assert said.dtype == np.bool_ and said.tolist() == expected
        batch = network.synapses.batch()
        assert np.stack([batch.source, batch.target, batch.weight, batch.inhibitory], axis=1).tolist() == model
        assert network.synapse_count == network.synapses.valid_count == len(model)
        indptr, order = network.synapses.source_index
        assert len(indptr) == N + 1 and indptr[-1] == len(model)
        for neuron in range(N):
            slots = order[indptr[neuron] : indptr[neuron + 1]]
            kept = [row for row in model if row[0] == neuron]
            assert [network.synapses.target[slot] for slot in slots] == [row[1] for row in kept]
            assert [network.synapses.weight[slot] for slot in slots] == [row[2] for row in kept]


def test_repeated_pairs_take_the_next_oldest_or_reweight_the_oldest_last() -> None:
    network = Connectome(3, 3)
    network.add_synapses([1, 1, 1], [2, 2, 2], [10, 20, 30], 1)
    assert network.reweight_synapses([1, 0, 1], [2, 2, 2], [11, 9, 12]).tolist() == [True, False, True]
    assert network.synapses.weight.tolist() == [12, 20, 30]
    assert network.remove_synapses([1, 1], [2, 2]).tolist() == [True, True]
    assert network.synapses.valid.tolist() == [False, False, True]
    assert network.remove_synapses([1, 1], [2, 2]).tolist() == [True, False]
    assert network.remove_synapses([], []).tolist() == []


def test_neurons_get_the_next_free_ids() -> None:
    network = Connectome(8)
    network.create_neurons([1, 4], threshold=[3, 5])
    assert network.add_neuron(threshold=7) == 0
    assert network.add_neurons(2, threshold=[8, 9]).tolist() == [2, 3]
    network.delete_neurons([0, 3])
    assert network.add_neuron() == 5
    assert network.add_neurons(0).tolist() == []
    assert network.add_neurons(2).tolist() == [6, 7]
    assert network.neurons.threshold.tolist() == [7, 3, 8, 9, 5, 1, 1, 1]
    assert network.neuron_count == 6 and network.neurons.count == 8
    for add in (network.add_neuron, lambda: network.add_neurons(1)):
        with pytest.raises(CapacityError, match=r"1 neurons do not fit: 0 of 8 reserved ids are free; reserve\(neurons"):
            add()
    network.reserve(neurons=9)
    assert network.add_neuron() == 8


def test_the_last_ids_given_by_hand() -> None:
    network = Connectome(3)
    network.create_neurons([0, 1, 2])
    with pytest.raises(CapacityError, match="0 of 3"):
        network.add_neuron()


def test_every_field_is_written_with_its_default_or_its_value() -> None:
    network = Connectome(3)
    for name in NEURON_FIELDS:
        network.neurons[name][...] = 1  # what was there before an id is created does not count
    first = network.add_neuron(coordinates=(1, 2, 3), leak_coefficient=0.25, mp_charge_accumulation=False, refractory_period=9)
    second = network.add_neurons(1, coordinates=(1, 2, 3), leak_coefficient=0.25, mp_charge_accumulation=False, refractory_period=9)
    third = network.add_neurons(1)
    for name, field in NEURON_FIELDS.items():
        column = network.neurons[name]
        assert column[first].tobytes() == column[second].tobytes()
        assert (column[third] == field.default).all()
    assert network.neurons.leak_coefficient[0] == 0.25 and network.neurons.coordinates[0].tolist() == [1, 2, 3]
    assert not network.neurons.mp_charge_accumulation[0] and network.neurons.refractory_period[0] == 9


def test_names_of_the_seed_read_the_same_arrays() -> None:
    network = small()
    network.neurons.thresholds[1] = 4
    assert network.neurons.threshold[1] == 4
    for field in NEURON_FIELDS.values():
        assert getattr(network.neurons, field.seed_name) is network.neurons[field.name]
    with pytest.raises(AttributeError, match="'axons'"):
        _ = network.neurons.axons
    with pytest.raises(AttributeError):
        network.neurons.leak_rates = np.zeros(10)
    synapses = network.synapses
    assert synapses.source_neurons.tolist() == [0, 1, 1] and synapses.target_neurons.tolist() == [1, 2, 2]
    assert synapses.weights.tolist() == [5, 6, 7] and synapses.conductances.tolist() == [1, 1, 1] and synapses.valid_mask.all()
    network.add_synapse(3, 3, 1, 1, True)
    assert network.synapses.types.tolist() == [0, 0, 0, 1] and network.synapses.types.dtype == np.uint8


def test_delete_says_once_whether_it_was_there() -> None:
    network = small()
    assert network.delete_neurons([1, 9, 1, 0]).tolist() == [True, False, False, True]
    assert network.delete_neurons(1).tolist() == [False]
    assert network.neuron_count == 2 and network.synapse_count == 3


def test_write_and_write_area() -> None:
    network = small()
    network.write("cortical_area", [1, 3], 7)
    network.write("threshold", [3, 0], [30.5, 2])
    assert network.neurons.threshold[:5].tolist() == [2, 5, 5, 30.5, 1]
    network.delete_neurons(3)
    assert network.write_area("leak_coefficient", 7, 0.5) == 1
    assert network.neurons.leak_coefficient[:4].tolist() == [0, 0.5, 0, 0]
    assert network.write_area("coordinates", 0, (1, 2, 3)) == 2
    assert network.neurons.coordinates[:3].tolist() == [[1, 2, 3], [0, 0, 0], [1, 2, 3]]
    assert network.write_area("threshold", 99, 1) == 0


REFUSED: list[tuple[Callable[[Connectome], object], type[Exception], str]] = [
    (lambda c: c.add_neurons(7), CapacityError, "7 neurons do not fit: 6 of 10 reserved"),
    (lambda c: c.add_neurons(-1), NetworkError, "count: -1"),
    (lambda c: c.add_neurons(1.0), NetworkError, "count: 1.0"),  # type: ignore[arg-type]
    (lambda c: c.add_neurons(2, threshold=[1, 2, 3]), NetworkError, "threshold: 3 values for 2"),
    (lambda c: c.add_neurons(2, threshold=1, leak_coefficient=2), NetworkError, "leak_coefficient: 2 is outside 0..1"),
    (lambda c: c.add_neurons(2, colour=1), NetworkError, "'colour' is not a field"),
    (lambda c: c.add_neuron(colour=1), NetworkError, "'colour' is not a field"),
    (lambda c: c.add_neuron(threshold=float("nan")), NetworkError, "threshold: nan"),
    (lambda c: c.add_neuron(threshold=1, refractory_period=70000), NetworkError, "refractory_period: 70000"),
    (lambda c: c.add_neuron(coordinates=1), NetworkError, r"coordinates: an array of shape \(\)"),
    (lambda c: c.create_neurons([5, 3]), NetworkError, r"neurons\[1\]: 3 exists already"),
    (lambda c: c.create_neurons([5, 5]), NetworkError, r"neurons\[1\]: 5 is given more than once"),
    (lambda c: c.create_neurons([5, 10]), NeuronIndexError, r"neurons\[1\]: 10 is not a neuron id"),
    (lambda c: c.create_neurons([5, 6], threshold=[1, np.inf]), NetworkError, r"threshold\[1\]: inf"),
    (lambda c: c.delete_neurons([0, 10]), NeuronIndexError, r"neurons\[1\]: 10"),
    (lambda c: c.write("threshold", [0, 5], 1), NetworkError, r"neurons\[1\]: 5 was never created; add_neurons"),
    (lambda c: c.write("threshold", [0, 0], 1), NetworkError, r"neurons\[1\]: 0 is given more than once"),
    (lambda c: c.write("threshold", [0, 1], [1, 2, 3]), NetworkError, "threshold: 3 values for 2"),
    (lambda c: c.write("valid", [0], 1), NetworkError, "'valid' is not a field"),
    (lambda c: c.write_area("threshold", 0, np.nan), NetworkError, "threshold: nan"),
    (lambda c: c.write_area("threshold", -1, 1), NetworkError, "area -1"),
    (
        lambda c: c.add_synapses([0] * 8, 1, 1, 1),
        CapacityError,
        r"8 synapses do not fit: 7 of the 10 reserved .*reserve\(synapses.*compact",
    ),
    (lambda c: c.add_synapses([0, 1], [1, 10], 1, 1), NeuronIndexError, r"target\[1\]: 10 is not a neuron id"),
    (lambda c: c.add_synapses([0, 1], [1, 2], [1, 256], 1), NetworkError, r"weight\[1\]: 256 is outside 0..255"),
    (lambda c: c.add_synapse(10, 0, 1, 1), NeuronIndexError, "source.*: 10 is not a neuron id"),
    (lambda c: c.add_synapse(0, -1, 1, 1), NeuronIndexError, "target.*: -1 is not a neuron id"),
    (lambda c: c.add_synapse(0, 1, 256, 1), NetworkError, "weight: 256 is outside 0..255"),
    (lambda c: c.add_synapse(0, 1, 1, -1), NetworkError, "psp: -1 is outside 0..255"),
    (lambda c: c.add_synapse(True, 1, 1, 1), NetworkError, "source: dtype bool"),
    (lambda c: c.add_synapse(0, 1, 1.0, 1), NetworkError, "weight: dtype float64"),  # type: ignore[arg-type]
    (lambda c: c.add_synapse(0, 1, 1, 1, 2), NetworkError, "inhibitory: 2 is outside 0..1"),  # type: ignore[arg-type]
    (lambda c: c.remove_synapses([0, 1], [1]), NetworkError, "target: 1 ids for 2 of source"),
    (lambda c: c.remove_synapses([0, 10], [1, 1]), NeuronIndexError, r"source\[1\]: 10"),
    (lambda c: c.reweight_synapses([0], [1], [300]), NetworkError, r"weight\[0\]: 300 is outside"),
    (lambda c: c.reweight_synapses([0], [1], [1, 2]), NetworkError, "weight: 2 values for 1"),
    (lambda c: c.set_area(-1, Area()), NetworkError, "area -1"),
    (lambda c: c.set_area(1, "vision"), NetworkError, "area 1: 'vision' is not an Area"),  # type: ignore[arg-type]
    (lambda c: c.set_settings(Rules()), NetworkError, "is not a Settings"),  # type: ignore[arg-type]
    (lambda c: c.reserve(neurons=2**30 + 1), CapacityError, "1,073,741,825 is more than 1,073,741,824"),
    (lambda c: c.reserve(neurons=20, synapses=-5), NetworkError, "synapse_capacity: -5"),
    (lambda c: Connectome(2**30 + 1), CapacityError, "1,073,741,825"),
    (lambda c: Connectome(1.5), NetworkError, "neuron_capacity: 1.5"),  # type: ignore[arg-type]
    (lambda c: Connectome(1, weight_dtype=np.int16), NetworkError, "weight_dtype: .*int16.* none of uint8, uint16 and float32"),
    (lambda c: Connectome(1, psp_dtype="float64"), NetworkError, "psp_dtype: 'float64'"),
    (lambda c: SynapseBatch(*([c.synapses.source] * 5), c.synapses.inhibitory[:1]), NetworkError, r"different lengths: \[1, 3\]"),
]


@pytest.mark.parametrize(("act", "error", "message"), REFUSED)
def test_refused_before_anything_is_changed(act: Callable[[Connectome], object], error: type[Exception], message: str) -> None:
    network = small()
    before = everything(network)
    with pytest.raises(error, match=message):
        act(network)
    assert everything(network) == before


def test_write_to_a_deleted_neuron() -> None:
    network = small()
    network.delete_neurons(2)
    with pytest.raises(NetworkError, match=r"neurons\[0\]: 2 was deleted"):
        network.write("threshold", 2, 1)
    with pytest.raises(NetworkError, match=r"neurons\[0\]: 2 was deleted, and ids are never reused"):
        network.create_neurons(2)


def test_frozen() -> None:
    network = small()
    network.freeze()
    acts: list[Callable[[], object]] = [
        lambda: network.add_neurons(1),
        lambda: network.add_neuron(),
        lambda: network.create_neurons([7]),
        lambda: network.delete_neurons([0]),
        lambda: network.write("threshold", 0, 1),
        lambda: network.write_area("threshold", 0, 1),
        lambda: network.add_synapses(0, 1, 1, 1),
        lambda: network.add_synapse(0, 1, 1, 1),
        lambda: network.remove_synapses(0, 1),
        lambda: network.reweight_synapses(0, 1, 1),
        lambda: network.set_area(0, Area()),
        lambda: network.set_settings(Settings()),
        lambda: network.reserve(100),
        lambda: network.compact(),
    ]
    before = everything(network)
    for act in acts:
        with pytest.raises(NetworkError, match=r"frozen.*copy\(\)"):
            act()
    for array in (network.neurons.threshold, network.neurons.valid, network.synapses.weight, network.synapses.types):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert everything(network) == before and network.frozen
    network.validate()
    copy = network.copy()
    assert everything(copy)[:-1] == before[:-1] and not copy.frozen
    copy.write("threshold", 0, 9)
    copy.add_synapse(0, 1, 1, 1)
    assert copy.add_neuron() == 4
    assert everything(network) == before


def test_a_copy_shares_nothing() -> None:
    network = small()
    copy = network.copy()
    before = everything(network)
    copy.write("threshold", 0, 9)
    copy.remove_synapses(0, 1)
    copy.set_area(3, Area(power=True))
    copy.set_settings(Settings(random_seed=3))
    assert everything(network) == before


def test_reserve_keeps_what_is_there() -> None:
    network = small()
    network.reserve(neurons=5, synapses=5)
    assert (network.neuron_capacity, network.synapse_capacity) == (10, 10)
    network.reserve(neurons=15)
    assert len(network.synapses.source_index[0]) == 16
    network.reserve(neurons=20, synapses=30)
    assert (network.neuron_capacity, network.synapse_capacity) == (20, 30)
    network.add_synapse(19, 18, 3, 4)
    assert network.synapses.source.tolist() == [0, 1, 1, 19] and network.neuron_count == 4
    assert len(network.synapses.source_index[0]) == 21
    assert network.add_neurons(16)[-1] == 19
    network.validate()


def test_areas_and_settings() -> None:
    settings = Settings(Rules.preset("feagi-2.6"), 0.5, 2.0, 9)
    network = Connectome(settings=settings, areas={3: Area("vision", psp_uniform=False)})
    network.set_area(np.int64(4), Area(power=True))  # type: ignore[arg-type]
    assert network.areas == {3: Area("vision", psp_uniform=False), 4: Area(power=True)} and network.settings == settings
    with pytest.raises(TypeError):
        network.areas[5] = Area()  # type: ignore[index]
    assert "0 neurons (capacity 0), 0 synapses (capacity 0), 2 areas" in repr(network)


def test_batches() -> None:
    network = Connectome(5, 5, weight_dtype=np.uint16)
    network.add_synapses([1, 2], 3, [300, 4], 5, [True, False])
    batch = network.synapses.batch()
    both = SynapseBatch.concatenate([batch, SynapseBatch.empty(np.uint16), batch])
    assert both.source.tolist() == [1, 2, 1, 2] and both.weight.tolist() == [300, 4, 300, 4] and both.weight.dtype == np.uint16
    assert both.psp.dtype == np.uint8 and both.inhibitory.tolist() == [True, False, True, False]
    assert len(SynapseBatch.concatenate([])) == 0


SPOILT: list[tuple[Callable[[Connectome], object], type[Exception], str]] = [
    (lambda c: c.neurons.threshold.__setitem__(3, np.nan), NetworkError, r"threshold\[3\]: nan"),
    (lambda c: c.neurons.membrane_potential.__setitem__(9, np.inf), NetworkError, r"membrane_potential\[9\]: inf"),
    (lambda c: c.neurons.leak_coefficient.__setitem__(1, 1.5), NetworkError, r"leak_coefficient\[1\]: 1.5 is outside"),
    (lambda c: c.neurons.threshold.__setitem__(2, -0.0), NetworkError, r"threshold\[2\]: -0.0 is subnormal or -0"),
    (lambda c: c.neurons.threshold.__setitem__(2, 9.0e-41), NetworkError, r"threshold\[2\]: .*e-41 is subnormal"),
    (lambda c: c.neurons.valid.__setitem__(7, True), NetworkError, "neuron 7 is valid but was never created"),
    (lambda c: c.neurons.valid.view(np.uint8).__setitem__(1, 3), NetworkError, r"valid\[1\]: 3 where 0 or 1"),
    (lambda c: setattr(c.neurons, "threshold", np.zeros(10)), NetworkError, r"threshold: an array of float64 of shape \(10,\)"),
    (lambda c: setattr(c.neurons, "created", np.zeros(9, np.bool_)), NetworkError, r"created: an array of bool of shape \(9,\)"),
    (
        lambda c: c.synapses.source.__setitem__(2, 10),
        NeuronIndexError,
        r"source of synapse 2: 10 is not a neuron id; the ids of this network are 0 to 9",
    ),
    (lambda c: c.synapses.target.__setitem__(1, 90210), NeuronIndexError, "target of synapse 1: 90210 is not a neuron id"),
    (lambda c: c.synapses.types.__setitem__(1, 2), NetworkError, r"inhibitory\[1\]: 2 where 0 or 1"),
    (lambda c: setattr(c.synapses, "count", 11), NetworkError, r"synapse count 11 is outside 0..10"),
    (lambda c: c.synapses._arrays.update(weight=np.zeros(10, np.uint16)), NetworkError, "weight: an array of uint16"),
]


@pytest.mark.parametrize(("spoil", "error", "message"), SPOILT)
def test_validate_sees_what_was_written_by_hand(spoil: Callable[[Connectome], object], error: type[Exception], message: str) -> None:
    network = small()
    network.validate()
    spoil(network)
    with pytest.raises(error, match=message):
        network.validate()


def test_validate_checks_sums() -> None:
    network = Connectome(3, 5, weight_dtype=np.uint16, psp_dtype=np.uint16)
    network.add_synapses(0, 2, [65535, 65535, 1], [32767, 1, 32767])
    network.set_area(5, Area(psp_uniform=False))
    network.validate()
    network.add_synapse(1, 2, 1, 1)  # from an id that nobody created
    with pytest.raises(SumOverflowError, match=f"neuron 2: .*{2**63}.*less than {2**63}"):
        network.validate()
    network.remove_synapses(0, 2)
    network.validate()
    network.add_synapse(1, 1, 65535, 65535)
    with pytest.raises(NetworkError, match=r"synapse 1 -> 1: weight 65535 \* psp 65535"):
        network.validate()
    network.set_area(5, Area())
    network.validate()


def test_empty() -> None:
    network = Connectome()
    network.validate()
    network.compact()
    network.set_area(0, Area(psp_uniform=False))
    network.validate()
    assert network.synapses.source_index[0].tolist() == [0] and network.neuron_count == network.synapse_count == 0
