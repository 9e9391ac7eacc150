"""The NPU: every public operation, on every backend."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from golden_cases import CASES, PLASTIC_CASES, assert_bits, load_case
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_npu import (
    NEURON_FIELDS,
    NPU,
    Area,
    BurstResult,
    CapacityError,
    Connectome,
    NetworkError,
    NpuError,
    PairRule,
    Rules,
    Settings,
    SumOverflowError,
    WindowRule,
)
from gpu_npu.backends.base import Platform
from gpu_npu.backends.devices.base import Device
from gpu_npu.backends.executor import DevicePlatform
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.backends.select import open_platform
from gpu_npu.connectome import SYNAPSE_FIELDS
from gpu_npu.npu.admission import PendingSynapses

Factory = Callable[[], Platform]


def chain(factory: Factory, **options: Any) -> NPU:
    """Neurons 0 -> 1 -> 2 -> 3, threshold 1, every synapse strong enough."""
    npu = NPU(4, 10, backend=factory, **options)
    npu.add_neurons(4)
    npu.add_synapses([0, 1, 2], [1, 2, 3], 1, 1)
    return npu


def network(neurons: int = 60, degree: int = 12, **fields: Any) -> Connectome:
    """A random network that stays lively; areas 0 and 1, power neurons in area 1."""
    rng = np.random.default_rng(3)
    connectome = Connectome(neurons, neurons * degree + 50, areas={1: Area("power", power=True)})
    defaults = {
        "threshold": rng.integers(1, 6, neurons),
        "leak_coefficient": 0.25,
        "refractory_period": rng.integers(0, 3, neurons),
        "cortical_area": (np.arange(neurons) < 6).astype(np.uint32),
        "coordinates": np.stack([np.arange(neurons) % 4, np.arange(neurons) // 4, np.zeros(neurons, int)], axis=1),
    }
    connectome.add_neurons(neurons, **{**defaults, **fields})
    n = neurons * degree
    connectome.add_synapses(
        rng.integers(0, neurons, n), rng.integers(0, neurons, n), rng.integers(0, 4, n), rng.integers(0, 3, n), rng.random(n) < 0.3
    )
    return connectome


def fired(npu: NPU, bursts: int = 1) -> list[list[int]]:
    return [npu.process_burst().fired_neurons.tolist() for _ in range(bursts)]


def same_network(a: Connectome, b: Connectome) -> None:
    """Everything equal, bit for bit; synapses by source, target and age."""
    for name in (*NEURON_FIELDS, "valid", "created"):
        assert_bits(a.neurons[name], b.neurons[name], name)
    assert (a.neuron_capacity, a.synapse_capacity) == (b.neuron_capacity, b.synapse_capacity)
    assert (a.settings, dict(a.areas), a.plasticity) == (b.settings, dict(b.areas), b.plasticity)
    one, other = a.synapses.batch(), b.synapses.batch()
    orders = [np.lexsort((batch.target, batch.source)) for batch in (one, other)]
    for name in SYNAPSE_FIELDS:
        assert_bits(getattr(one, name)[orders[0]], getattr(other, name)[orders[1]], name)


# -- the seed -------------------------------------------------------------------------------------------------------
def test_the_seed_snippet(backend_factory: Factory) -> None:
    genome = [(2, 5, 1, 3, 0), (5, 6, 1, 3, 0), (5, 7, 1, 3, 1)]
    neuron_to_area_map = {neuron: neuron % 2 for neuron in range(8)}
    npu = NPU(neuron_count=22590, synapse_capacity=500000, fire_ledger_window=20, backend=backend_factory)
    for source, target, weight, conductance, syn_type in genome:
        npu.add_synapse(source, target, weight, conductance, syn_type)
    npu.rebuild_indexes()
    npu.set_neuron_mapping(neuron_to_area_map)
    result = npu.process_burst(power_neurons=[2])
    assert f"Burst {result.burst}: {result.neuron_count} neurons fired" == "Burst 1: 1 neurons fired"
    assert result.fired_neurons.dtype == np.uint32
    assert (result.power_injections, result.sensory_injections, result.synaptic_injections) == (1, 0, 0)
    result = npu.process_burst(power_neurons=[])
    assert (result.fired_neurons.tolist(), result.synaptic_injections, result.neurons_processed) == ([5], 1, 1)
    result = npu.process_burst(power_neurons=[])
    assert (result.fired_neurons.tolist(), result.synaptic_injections, result.neurons_processed) == ([6], 2, 2)
    assert result.neurons_in_refractory == 0
    assert (npu.get_neuron_count(), npu.get_synapse_count(), npu.get_burst_count()) == (8, 3, 3)
    assert npu.get_fire_history(2).tolist() == [5]
    assert [(burst, ids.tolist()) for burst, ids in npu.get_recent_history(2)] == [(3, [6]), (2, [5])]
    npu.close()


@pytest.mark.parametrize("name", (*CASES, *PLASTIC_CASES))
def test_golden_cases_through_the_npu(name: str) -> None:
    """What the backend contract gives (test_golden) the NPU gives too, edits and all."""
    case = load_case(name)
    npu = NPU.from_connectome(case.connectome, backend=ReferencePlatform)
    npu.set_power_neurons(case.data["in_power"])
    for burst in range(1, case.bursts + 1):
        for operation, arguments, answer in case.operations(burst):
            if operation == "set_parameter":
                field, neuron, value = arguments
                npu.set_parameter(field, [neuron], [value])
            else:
                assert getattr(npu, operation)(*arguments) == answer, (burst, operation, arguments)
        npu.inject(*case.injections(burst))
        npu.force_fire(case.forced(burst))
        result = npu.process_burst()
        np.testing.assert_array_equal(result.fired_neurons, case.fired(burst)[0])
        assert_bits(npu.fire_queue.potentials, case.fired(burst)[1], f"burst {burst}")
        counters = [
            result.sensory_injections,
            result.power_injections,
            result.synaptic_injections,
            result.neurons_processed,
            result.neurons_in_refractory,
        ]
        assert counters == case.data["out_counters"][burst - 1].tolist()
    left = npu.synapse_array
    for got, expected in zip((left.source, left.target, left.weight), case.final_synapses(), strict=True):
        np.testing.assert_array_equal(got, expected)


# -- neurons --------------------------------------------------------------------------------------------------------
def test_add_neuron_fills_reserved_ids_in_order(backend_factory: Factory) -> None:
    npu = NPU(7, backend=backend_factory)
    assert npu.get_neuron_count() == 0
    npu.set_neuron_mapping([4, 1], [9, 8])
    assert npu.get_parameter("cortical_area", [1, 4]).tolist() == [8, 9]
    assert [npu.add_neuron(threshold=2.5, cortical_area=3), npu.add_neuron()] == [0, 2]
    assert npu.add_neurons(2, coordinates=[[1, 2, 3], [4, 5, 6]]).tolist() == [3, 5]
    assert npu.get_neuron_count() == 6
    with pytest.raises(CapacityError, match=r"2 neurons do not fit: 1 of 7 .*reserve"):
        npu.add_neurons(2)
    assert npu.delete_neuron(2)
    assert npu.add_neuron() == 6, "ids are never reused"
    with pytest.raises(CapacityError):
        npu.add_neuron()
    npu.reserve(neurons=9)
    assert npu.add_neuron() == 7
    assert npu.get_parameter("threshold").tolist()[:2] == [2.5, 1.0]
    assert npu.get_parameter("coordinates", [5]).tolist() == [[4, 5, 6]]


def test_mapping_creates_and_moves(backend_factory: Factory) -> None:
    npu = NPU(6, backend=backend_factory)
    npu.add_neurons(2, threshold=3.0, cortical_area=1)
    npu.set_neuron_mapping({5: 2, 0: 4, 3: 2})
    assert npu.get_neuron_count() == 4
    assert npu.neurons_in_area(2).tolist() == [3, 5]
    assert npu.neurons_in_area(4).tolist() == [0]
    assert npu.get_parameter("threshold", [0, 1, 3, 5]).tolist() == [3.0, 3.0, 1.0, 1.0]
    npu.set_neuron_mapping({})
    assert npu.get_neuron_count() == 4


def test_deleted_neurons_are_silent_and_their_synapses_stay(backend_factory: Factory) -> None:
    npu = chain(backend_factory)
    npu.process_burst([0])
    assert npu.delete_neuron(0) is True, "its spike under way is not delivered"
    assert npu.delete_neuron(0) is False
    assert npu.process_burst([0]).neurons_processed == 0
    assert npu.get_neuron_count() == 3
    assert npu.get_synapse_count() == 3
    assert npu.update_weight(0, 1, 9) is True
    assert npu.delete_neurons([1, 0]).tolist() == [True, False]
    assert npu.neuron_array.valid.tolist() == [False, False, True, True]


def test_parameters_hold_from_the_next_burst(backend_factory: Factory) -> None:
    npu = chain(backend_factory)
    npu.set_parameter("threshold", [1, 2], [2.0, 1.0])
    npu.process_burst([0])
    assert fired(npu) == [[]], "1 has threshold 2 now"
    assert npu.get_parameter("membrane_potential").tolist() == [0, 1, 0, 0]
    assert npu.set_area_parameter("threshold", 0, 0.5) == 4
    npu.inject([1], 0)
    assert fired(npu, 2) == [[1], [2]]
    assert npu.set_area_parameter("threshold", 17, 0.5) == 0
    npu.set_parameter("refractory_period", 3, 2)
    npu.force_fire([3])
    assert fired(npu, 2) == [[3], []]


# -- synapses -------------------------------------------------------------------------------------------------------
def test_single_additions_are_batched_and_never_late(backend_factory: Factory) -> None:
    rng = np.random.default_rng(0)
    source, target, weight, psp, kind = (rng.integers(0, high, 300) for high in (20, 20, 9, 3, 2))
    one, other = (NPU(20, 300, backend=backend_factory) for _ in range(2))
    for npu in (one, other):
        npu.add_neurons(20, threshold=4.0)
    other.add_synapses(source, target, weight, psp, kind)
    for i, synapse in enumerate(zip(source, target, weight, psp, kind, strict=True)):
        assert one.add_synapse(*synapse) is True
        assert one.get_synapse_count() == i + 1
    with pytest.raises(CapacityError, match="reserve"):
        one.add_synapse(0, 0, 1, 1)
    same_network(one.to_connectome(), other.to_connectome())
    for npu in (one, other):
        npu.set_power_neurons(range(5))
    assert one.run(8, digest=True).digest == other.run(8, digest=True).digest


def test_single_additions_are_handed_over_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PendingSynapses, "MOST", 3)
    npu = NPU(3, 10, backend=ReferencePlatform)
    for i in range(10):
        npu.add_synapse(0, i % 3, i, 1)
    assert npu.outgoing_synapses([0]).weight.tolist() == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]


def test_edits_act_on_the_oldest_of_a_pair(backend_factory: Factory) -> None:
    npu = NPU(3, 10, backend=backend_factory)
    npu.add_neurons(3)
    for weight in (1, 2, 3):
        npu.add_synapse(0, 1, weight, 1)
    npu.add_synapse(0, 0, 7, 1, 1)
    assert npu.update_weight(0, 1, 11) is True
    assert npu.update_synapse_weight(1, 0, 11) is False
    assert npu.remove_synapse(0, 1) is True
    assert npu.outgoing_synapses([0]).weight.tolist() == [7, 2, 3]
    assert npu.update_weights([0, 2, 0], [1, 1, 0], [20, 1, 70]).tolist() == [True, False, True]
    assert npu.remove_synapses([0, 0, 0], [1, 1, 1]).tolist() == [True, True, False]
    left = npu.incoming_synapses([0])
    assert (left.source.tolist(), left.weight.tolist(), left.inhibitory.tolist()) == ([0], [70], [True])
    assert npu.get_synapse_count() == len(npu.synapse_array.weights) == 1
    assert len(npu.incoming_synapses([1])) == len(npu.outgoing_synapses([])) == 0
    for _ in range(9):
        npu.add_synapse(2, 2, 1, 1)  # the capacity counts what is there, not what was
    with pytest.raises(CapacityError):
        npu.add_synapse(2, 2, 1, 1)


def test_a_run_does_not_depend_on_rebuild_indexes_or_reserve(backend_factory: Factory) -> None:
    digests = []
    for tidy in (False, True):
        npu = NPU.from_connectome(network(), backend=backend_factory)
        first = npu.run(5, digest=True).digest
        some = npu.outgoing_synapses(np.arange(0, 60, 2))
        assert npu.remove_synapses(some.source, some.target).all()
        npu.add_synapses(some.target, some.source, some.weight, some.psp, some.inhibitory)
        if tidy:
            npu.rebuild_indexes()
            npu.reserve(neurons=200, synapses=5000)
            assert (npu.neuron_capacity, npu.synapse_capacity) == (200, 5000)
            npu.reserve(neurons=1)
            assert npu.neuron_capacity == 200
            assert npu.add_neurons(2).tolist() == [60, 61]
        digests.append((first, npu.run(10, digest=True).digest))
        npu.close()
    assert digests[0] == digests[1]


# -- what drives ----------------------------------------------------------------------------------------------------
def test_power_is_a_list_and_areas(backend_factory: Factory) -> None:
    npu = NPU(6, 0, backend=backend_factory, areas={3: Area(power=True)})
    npu.add_neurons(4, cortical_area=[0, 0, 3, 0])
    assert fired(npu) == [[2]]
    npu.set_power_neurons([1, 1])
    result = npu.process_burst()
    assert (result.fired_neurons.tolist(), result.power_injections) == ([1, 2], 2)
    assert npu.process_burst(power_neurons=[0]).fired_neurons.tolist() == [0], "this burst alone"
    assert npu.process_burst(power_neurons=[3]).fired_neurons.tolist() == [3]
    assert fired(npu) == [[1, 2]]
    npu.add_neuron(cortical_area=3)
    assert fired(npu) == [[1, 2, 4]]
    npu.set_parameter("cortical_area", [2], 0)
    assert fired(npu) == [[1, 4]]
    npu.set_area(3, power=False)
    npu.set_area(0, power=True, name="rest")
    assert npu.areas == {3: Area(), 0: Area("rest", power=True)}
    assert fired(npu) == [[0, 1, 2, 3]]
    npu.set_area_parameter("cortical_area", 0, 7)
    npu.set_neuron_mapping({5: 0})
    assert fired(npu) == [[1, 5]]
    npu.delete_neurons([1, 5])
    assert npu.statistics()["power_neurons"] == 1  # the list keeps its neuron, the area does not
    assert fired(npu) == [[]]
    npu.set_power_neurons([])
    npu.set_power_amount(0.25)
    assert npu.power_amount == 0.25
    assert npu.process_burst([0]).neurons_processed == 1
    assert npu.get_parameter("membrane_potential", [0]).tolist() == [0.25]


def test_injections_add_in_the_order_staged(backend_factory: Factory) -> None:
    npu = NPU(4, 0, backend=backend_factory)
    npu.add_neurons(3, threshold=1e9)
    npu.inject([0, 0, 1], [1e8, 1.0, 2.0])
    npu.inject([0, 3], -1e8)
    result = npu.process_burst()
    assert (result.sensory_injections, result.neurons_processed) == (4, 2), "3 does not exist"
    assert npu.get_parameter("membrane_potential").tolist()[:3] == [0.0, 2.0, 0.0], "1e8 + 1 is 1e8 in float32"
    candidates = npu.fire_candidate_list
    assert (candidates.neurons.tolist(), candidates.potentials.tolist()) == ([0, 1], [0.0, 2.0])
    assert npu.process_burst().neurons_processed == 0


def test_forced_neurons_fire_once_at_100(backend_factory: Factory) -> None:
    npu = chain(backend_factory)
    npu.force_fire([2, 2])
    npu.force_fire([0])
    npu.inject([0], 5)
    assert fired(npu) == [[0, 2]]
    assert (npu.fire_queue.get(0), npu.fire_queue.get(2), npu.fire_queue.get(1)) == (5.0, 100.0, None)
    assert fired(npu) == [[1, 3]]


class OnAGpu:
    """An array in a GPU's memory, by what it says."""

    __cuda_array_interface__ = {"shape": (1,), "typestr": "<u4", "data": (0, True), "version": 3}  # noqa: RUF012


def test_device_arrays_go_to_the_backend(backend_factory: Factory) -> None:
    npu = chain(backend_factory)
    if npu.backend != "cuda":
        with pytest.raises(NetworkError):
            npu.inject(OnAGpu(), OnAGpu())
    npu.process_burst([0])
    ids = np.from_dlpack(npu.fired_on_device()) if npu.backend != "cuda" else npu.fired_on_device().get()
    assert ids.tolist() == [0]


# -- looking inside -------------------------------------------------------------------------------------------------
def test_queues_candidates_and_ledger(backend_factory: Factory) -> None:
    npu = chain(backend_factory, fire_ledger_window=3)
    assert (npu.fire_queue.burst, len(npu.fire_queue), len(npu.fire_ledger)) == (0, 0, 0)
    with pytest.raises(NetworkError, match="it is empty"):
        npu.get_fire_history(1)
    npu.set_parameter("coordinates", [0, 1], [[1, 2, 3], [4, 5, 6]])
    npu.set_parameter("cortical_area", [1], [6])
    npu.inject([0], 2.5)
    npu.process_burst()
    npu.process_burst()
    queue, previous, candidates = npu.fire_queue, npu.previous_fire_queue, npu.fire_candidate_list
    assert (queue.burst, queue.neurons.tolist(), queue.potentials.tolist()) == (2, [1], [1.0])
    assert (queue.coordinates.tolist(), queue.cortical_areas.tolist()) == ([[4, 5, 6]], [6])
    assert (previous.burst, previous.neurons.tolist(), previous.potentials.tolist()) == (1, [0], [2.5])
    assert 1 in queue
    assert 0 not in queue
    assert queue.in_area(6).tolist() == [1]
    assert (len(candidates), 1 in candidates, candidates.get(1), candidates.get(0)) == (1, True, 1.0, None)
    fired(npu, 3)
    assert [(burst, ids.tolist()) for burst, ids in npu.fire_ledger] == [(3, [2]), (4, [3]), (5, [])]
    assert [burst for burst, _ in npu.get_recent_history(9)] == [5, 4, 3]
    assert npu.get_recent_history(0) == []
    with pytest.raises(NetworkError, match=r"burst 2 is not in the fire ledger: it holds bursts 3 to 5, with a window of 3 bursts"):
        npu.get_fire_history(2)


def test_neurons_by_area_and_place(backend_factory: Factory) -> None:
    npu = NPU.from_connectome(network(), backend=backend_factory)
    assert npu.neurons_in_area(1).tolist() == list(range(6))
    assert npu.neurons_at([1, 1, 0]).tolist() == [5]
    assert npu.neurons_at([[1, 1, 0], [0, 2, 0], [9, 9, 9]]).tolist() == [5, 8]
    assert npu.neurons_at([[1, 1, 0], [0, 2, 0]], area=1).tolist() == [5]
    npu.set_parameter("coordinates", [40], [1, 1, 0])
    npu.delete_neuron(5)
    assert npu.neurons_at([1, 1, 0]).tolist() == [40]
    assert npu.neurons_in_area(1).tolist() == list(range(5))


def test_views_under_the_names_of_the_seed(backend_factory: Factory) -> None:
    connectome = network()
    npu = NPU.from_connectome(connectome, neuron_capacity=64, backend=backend_factory)
    neurons, synapses = npu.neuron_array, npu.synapse_array
    assert (neurons.capacity, neurons.count, neurons.thresholds.shape, neurons.coordinates.shape) == (64, 60, (64,), (64, 3))
    for field in NEURON_FIELDS.values():
        assert_bits(getattr(neurons, field.seed_name)[:60], connectome.neurons[field.name], field.name)
        assert field.seed_name in dir(neurons)
    neurons.thresholds[:] = 0
    assert_bits(neurons.threshold[:60], connectome.neurons.threshold, "a look is a copy")
    with pytest.raises(AttributeError, match="no field 'weights'"):
        _ = neurons.weights
    assert (synapses.capacity, synapses.count) == (770, 720)
    order = np.lexsort((connectome.synapses.target, connectome.synapses.source))
    for name in ("source_neurons", "target_neurons", "weights", "conductances", "types", "valid_mask"):
        assert_bits(getattr(synapses, name), getattr(connectome.synapses, name)[order], name)
    indptr, places = synapses.source_index
    assert (indptr[-1], len(places)) == (720, 720)


def test_statistics_memory_and_phases(backend_factory: Factory) -> None:
    npu = NPU.from_connectome(network(), fire_ledger_window=7, backend=backend_factory)
    npu.run(3)
    npu.remove_synapse(0, 1)
    statistics = npu.statistics()
    expected = {"burst_count": 3, "neurons": 60, "neuron_capacity": 60, "synapse_capacity": 770, "areas": 2, "power_neurons": 6}
    assert {key: statistics[key] for key in expected} == expected
    assert (statistics["synapses"], statistics["fixed_point_bits"], statistics["fire_ledger_window"]) == (npu.get_synapse_count(), 0, 7)
    assert {"bytes_touched", "rows_moved", "compactions", "bytes_compacted", "growths"} <= set(statistics)
    assert {"rows", "neurons", "ledger"} <= set(npu.memory())
    assert npu.phase_seconds is None
    npu.time_phases(True)
    npu.run(2)
    phases = npu.phase_seconds
    assert phases is not None
    assert sum(phases.values()) > 0
    npu.time_phases(False)
    assert npu.phase_seconds is None


# -- runs, reset, round trips ---------------------------------------------------------------------------------------
def test_run_counts_and_digests(backend_factory: Factory) -> None:
    npu = NPU.from_connectome(network(), backend=backend_factory)
    npu.process_burst()
    seen: list[BurstResult] = []

    def callback(result: BurstResult) -> None:
        seen.append(result)
        npu.inject([result.burst], 50.0)

    run = npu.run(6, callback, digest=True)
    assert (run.first_burst, run.bursts, run.fired_counts.tolist()) == (2, 6, [r.neuron_count for r in seen])
    assert run.fired_total == sum(len(r.fired_neurons) for r in seen) > 6
    assert run.synaptic_injections == sum(r.synaptic_injections for r in seen) > 0
    assert all(r.sensory_injections == 1 for r in seen[1:])
    sha = hashlib.sha256()
    for result in seen:
        sha.update(struct.pack(f"<QQ{result.neuron_count}I", result.burst, result.neuron_count, *result.fired_neurons.tolist()))
    assert run.digest == sha.hexdigest()
    with pytest.raises(NetworkError, match=r"this run was not asked for a digest; npu\.run\(n, digest=True\)"):
        _ = npu.run(1).digest
    empty = npu.run(0, digest=True)
    assert (empty.bursts, empty.fired_total, empty.digest) == (0, 0, hashlib.sha256().hexdigest())


def test_reset_goes_back_to_the_state_and_keeps_edits(backend_factory: Factory) -> None:
    npu = NPU.from_connectome(
        network(membrane_potential=np.linspace(-1, 1, 60), refractory_countdown=np.arange(60) % 3),
        neuron_capacity=70,
        backend=backend_factory,
    )
    npu.add_neurons(2, threshold=1.0, membrane_potential=[0.5, 0.0])
    npu.add_synapses([0, 60], [60, 61], 3, 3)
    before = npu.to_connectome()
    first = npu.run(12, digest=True).digest
    npu.inject([3], 99.0)
    npu.force_fire([4])
    npu.reset()
    assert (npu.get_burst_count(), len(npu.fire_queue), len(npu.fire_candidate_list), len(npu.fire_ledger)) == (0, 0, 0, 0)
    same_network(npu.to_connectome(), before)
    assert npu.run(12, digest=True).digest == first
    npu.update_weights(*_reweighted(npu))
    npu.set_settings(replace(npu.settings, power_amount=3.0))
    npu.reserve(neurons=80)
    npu.reset()
    assert_bits(npu.get_parameter("membrane_potential")[:70], before.neurons.membrane_potential, "as loaded")
    second = npu.run(12, digest=True).digest
    assert second != first
    npu.reset()
    assert npu.run(12, digest=True).digest == second, "edits stay"


def _reweighted(npu: NPU) -> tuple[Any, Any, int]:
    batch = npu.outgoing_synapses(range(20))
    return batch.source, batch.target, 5


def test_reset_of_the_network_undoes_edits(backend_factory: Factory) -> None:
    npu = NPU.from_connectome(network(), backend=backend_factory)
    first = npu.run(10, digest=True).digest
    before = npu.to_connectome()
    npu.reset()
    npu.add_synapse(0, 1, 200, 200)
    npu.delete_neurons([7, 8])
    npu.set_power_neurons([20])
    npu.set_area(0, mp_driven_psp=True)
    npu.set_settings(Settings(Rules.preset("feagi-2.6")))
    npu.reserve(neurons=100)
    npu.reset(network=True)
    assert (npu.neuron_capacity, npu.get_neuron_count(), npu.areas) == (60, 60, {1: Area("power", power=True), 0: Area()})
    assert npu.run(10, digest=True).digest == first
    same_network(npu.to_connectome(), before)


def test_areas_are_those_in_use(backend_factory: Factory) -> None:
    npu = NPU(10, areas={9: Area("empty", power=True)}, backend=backend_factory)
    assert npu.areas == {9: Area("empty", power=True)} and npu.statistics()["areas"] == 1
    npu.set_neuron_mapping({0: 4, 1: 2, 2: 4})
    assert list(npu.areas.items()) == [(9, Area("empty", power=True)), (2, Area()), (4, Area())]
    npu.add_neuron(cortical_area=6)
    npu.set_parameter("cortical_area", [1], 3)
    assert list(npu.areas) == [9, 3, 4, 6]
    npu.set_area_parameter("cortical_area", 4, 9)
    npu.delete_neurons([3])
    assert list(npu.areas) == [9, 3] and npu.statistics()["areas"] == 2
    npu.set_area(5, name="five")
    assert npu.areas == {9: Area("empty", power=True), 5: Area("five"), 3: Area()}
    npu.reset()
    assert list(npu.areas) == [9, 5, 3] and list(npu.to_connectome().areas) == [9, 5]
    with pytest.raises(TypeError):
        npu.areas[7] = Area()  # type: ignore[index]


def test_reset_of_the_network_where_there_is_none() -> None:
    npu = NPU(2, backend=ReferencePlatform)
    with pytest.raises(NetworkError, match="to_connectome"):
        npu.reset(network=True)


def test_a_platform_holds_one_network_after_the_other(device_factory: Callable[[], Device]) -> None:
    platform = DevicePlatform(device_factory())
    with NPU.from_connectome(network(), backend=platform) as npu:
        first = npu.run(3, digest=True).digest
        with pytest.raises(NetworkError, match="a network is loaded there already"):
            NPU.from_connectome(network(), backend=platform)
        npu.reset(network=True)
        assert npu.run(3, digest=True).digest == first
    assert NPU.from_connectome(network(), backend=platform).run(3, digest=True).digest == first


def test_to_connectome_round_trip(backend_factory: Factory) -> None:
    connectome = network(consecutive_fire_limit=np.arange(60) % 4)
    connectome.delete_neurons([10, 11])
    npu = NPU.from_connectome(connectome, neuron_capacity=64, synapse_capacity=1000, backend=backend_factory)
    taken = npu.to_connectome()
    expected = connectome.copy()
    expected.reserve(64, 1000)
    same_network(taken, expected)
    npu.run(9)
    npu.delete_neuron(12)
    npu.set_neuron_mapping({63: 5})
    later = npu.to_connectome()
    later.validate()
    assert later.neurons.created.sum() == 61
    assert later.neurons.valid.sum() == 58
    assert (later.neurons.consecutive_fire_count > 0).any()
    copy = NPU.from_connectome(later, backend=backend_factory)
    same_network(copy.to_connectome(), later)


def test_settings_hold_from_the_next_burst(backend_factory: Factory) -> None:
    results = []
    for seed in (1, 2, 1):
        npu = NPU(64, backend=backend_factory)
        npu.add_neurons(64, excitability=0.5)
        npu.set_power_neurons(range(64))
        npu.set_settings(replace(npu.settings, random_seed=seed))
        assert npu.settings.random_seed == seed
        results.append(fired(npu, 3))
    assert results[0] == results[2] != results[1]


# -- sums -----------------------------------------------------------------------------------------------------------
BIG = {"weight": 60000, "psp": 35000}
"""weight * psp is 2.1e9; the limit of a sum is 2**31, about 2.147e9."""


def shared_psp() -> NPU:
    """u16 counts on both sides; 0 and 1 are in area 0, 2 to 5 in area 1, which shares its psp."""
    npu = NPU(6, 50, backend=ReferencePlatform, weight_dtype=np.uint16, psp_dtype=np.uint16, areas={1: Area(psp_uniform=False)})
    npu.add_neurons(6, cortical_area=[0, 0, 1, 1, 1, 1])
    return npu


def refused(npu: NPU, *edits: Callable[[], object]) -> None:
    before = npu.to_connectome()
    for edit in edits:
        with pytest.raises(SumOverflowError, match="neuron 5: its synaptic input"):
            edit()
        same_network(npu.to_connectome(), before)


def test_sums_that_cannot_fit_are_refused() -> None:
    npu = shared_psp()
    npu.add_synapses([0], [5], **BIG)
    npu.add_synapse(1, 5, 700, 50000)
    refused(
        npu,
        lambda: npu.add_synapse(1, 5, 700, 50000),
        lambda: npu.add_synapses([1, 1], [5, 5], 350, 50000),
        lambda: npu.update_weight(1, 5, 1000),
    )
    npu.add_synapse(1, 5, 60000, 35000, 1)  # the other sign has a sum of its own
    npu.add_synapse(1, 4, 60000, 35000)
    assert npu.update_weight(1, 5, 900)
    refused(npu, lambda: npu.update_weight(1, 5, 950))
    assert npu.get_synapse_count() == 4


def test_the_limit_of_a_sum_is_not_reached() -> None:
    npu = shared_psp()
    npu.add_synapse(0, 5, 32768, 32768)
    npu.add_synapse(0, 5, 32767, 32768)
    refused(npu, lambda: npu.add_synapse(0, 5, 1, 32768), lambda: npu.add_synapses(0, 5, 32768, 1))
    npu.add_synapse(0, 5, 1, 32767)


def test_sums_that_fit_because_they_are_shared() -> None:
    npu = shared_psp()
    npu.add_synapses([2, 2, 2], [5, 5, 4], **BIG)  # two of three shares reach 5: 1.4e9
    npu.add_synapse(1, 5, 1000, 50000)
    refused(
        npu,
        lambda: npu.remove_synapse(2, 4),  # two of two shares: 2.1e9 and 5e7
        lambda: npu.set_area_parameter("cortical_area", 1, 9),
    )
    npu.set_area(8, psp_uniform=False)
    refused(
        npu,
        lambda: npu.set_parameter("cortical_area", [2], 0),
        lambda: npu.set_neuron_mapping({2: 7, 0: 3}),
        lambda: npu.set_area(1, psp_uniform=True),
    )
    npu.set_area(8, psp_uniform=True)
    npu.set_area(1, psp_uniform=True)  # no area shares: sums are whole numbers, and fit
    refused(npu, lambda: npu.set_area(8, psp_uniform=False))
    npu.set_area(1, psp_uniform=False)
    assert npu.remove_synapse(1, 5)
    assert npu.remove_synapse(2, 4)


def test_products_of_mp_driven_sources_count_255() -> None:
    npu = NPU(6, 600, backend=ReferencePlatform, weight_dtype=np.uint16, areas={0: Area(psp_uniform=False, mp_driven_psp=True)})
    npu.add_neurons(6, cortical_area=[0, 0, 1, 1, 1, 1])
    npu.add_synapses([2] * 128, [5] * 128, 65535, 1)
    npu.set_area(1, mp_driven_psp=True)
    refused(npu, lambda: npu.add_synapse(2, 5, 65535, 1), lambda: npu.add_synapses([2], [5], 65535, 1))


def test_moving_a_source_is_an_edit_of_its_sums() -> None:
    npu = NPU(6, 600, backend=ReferencePlatform, weight_dtype=np.uint16, areas={1: Area(mp_driven_psp=True), 7: Area(psp_uniform=False)})
    npu.add_neurons(6)
    npu.add_synapses([2] * 129, [5] * 129, 65535, 1)
    refused(
        npu,
        lambda: npu.set_parameter("cortical_area", [2], 1),
        lambda: npu.set_area_parameter("cortical_area", 0, 1),
        lambda: npu.set_neuron_mapping({2: 1}),
    )
    npu.set_parameter("cortical_area", [3], 1)
    npu.set_parameter("cortical_area", [2], 7)


def test_sums_count_what_plasticity_can_bring_about() -> None:
    npu = shared_psp()
    npu.add_synapse(0, 5, 1, 32767)
    npu.add_synapse(0, 5, 1, 32767)
    learns = WindowRule(0, 1, 3, 1, 1)
    refused(npu, lambda: npu.register_plasticity(learns))
    assert not npu.plasticity
    forgets = [npu.register_plasticity(rule) for rule in (WindowRule(0, 1, 3, 0, 9), PairRule(0, 1, 0, 5, 9, 9))]
    bounded = npu.register_plasticity(PairRule(0, 1, 5, 5, 9, 9, w_max=32767))
    refused(npu, lambda: npu.add_synapse(1, 5, 1, 30000), lambda: npu.register_plasticity(learns))
    assert list(npu.plasticity) == [*forgets, bounded]
    npu.unregister_plasticity(bounded)
    npu.add_synapse(1, 5, 1, 30000)
    elsewhere = npu.register_plasticity(WindowRule(3, 1, 3, 1, 1))
    refused(npu, lambda: npu.set_parameter("cortical_area", [0, 1], 3), lambda: npu.set_neuron_mapping({0: 3, 1: 3}))
    npu.unregister_plasticity(elsewhere)
    npu.set_area(1, psp_uniform=True)  # whole numbers have room for all of it
    npu.register_plasticity(learns)
    refused(npu, lambda: npu.set_area(1, psp_uniform=False))


big = st.sampled_from([0, 1, 300, 30000, 32768, 46340, 60000, 65535])
an_id = st.integers(0, 3)
edits = st.one_of(
    st.tuples(st.just("add_synapse"), an_id, an_id, big, big, st.integers(0, 1)),
    st.tuples(st.just("remove_synapse"), an_id, an_id),
    st.tuples(st.just("update_weight"), an_id, an_id, big),
    st.tuples(st.just("set_neuron_mapping"), an_id, st.integers(0, 2)),
    st.tuples(st.just("set_area"), st.integers(0, 2), st.booleans(), st.booleans()),
    st.tuples(
        st.just("register_plasticity"),
        st.one_of(
            st.builds(WindowRule, st.integers(0, 2), st.integers(0, 2), st.just(2), st.integers(0, 1), st.just(1)),
            st.builds(PairRule, *[st.integers(0, 2)] * 2, st.integers(0, 1), *[st.just(1)] * 3, w_max=st.sampled_from([None, 300, 32767])),
        ),
    ),
)


@settings(max_examples=150)
@given(st.lists(edits, min_size=1, max_size=25))
def test_an_edit_is_refused_exactly_where_the_network_would_not_be_allowed(steps: list[tuple[Any, ...]]) -> None:
    npu = NPU(4, 100, backend=ReferencePlatform, weight_dtype=np.uint16, psp_dtype=np.uint16)
    npu.add_neurons(4)
    for name, *arguments in steps:
        host = npu.to_connectome()
        if name == "add_synapse":
            host.add_synapse(*arguments[:4], bool(arguments[4]))
        elif name == "remove_synapse":
            host.remove_synapses(arguments[:1], arguments[1:])
        elif name == "update_weight":
            host.reweight_synapses(*([argument] for argument in arguments))
        elif name == "set_neuron_mapping":
            host.write("cortical_area", arguments[:1], arguments[1:])
            arguments = [dict([arguments])]
        elif name == "register_plasticity":
            host.set_plasticity([*host.plasticity, *arguments])
        else:
            host.set_area(arguments[0], Area(psp_uniform=arguments[1], mp_driven_psp=arguments[2]))
        try:
            host.validate()
            allowed = True
        except NpuError:
            allowed = False
        if allowed:
            getattr(npu, name)(*arguments)
            same_network(npu.to_connectome(), host)
        else:
            before = npu.to_connectome()
            with pytest.raises((SumOverflowError, NetworkError)):
                getattr(npu, name)(*arguments)
            same_network(npu.to_connectome(), before)


# -- life -----------------------------------------------------------------------------------------------------------
def test_a_closed_npu_says_so(backend_factory: Factory) -> None:
    with chain(backend_factory) as npu:
        npu.add_synapse(0, 0, 1, 1)
    npu.close()
    assert repr(npu).startswith("<NPU: closed after burst ")
    for use in (npu.process_burst, npu.get_synapse_count, npu.to_connectome, npu.reset, lambda: npu.add_synapse(0, 0, 1, 1)):
        with pytest.raises(NetworkError, match="closed"):
            use()


def test_several_npus_in_one_process(backend_factory: Factory) -> None:
    npus = [NPU.from_connectome(network(), backend=backend_factory) for _ in range(3)]
    npus[1].set_power_amount(2.0)
    digests = [[npu.process_burst().fired_neurons.tobytes() for npu in npus] for _ in range(8)]
    columns = list(zip(*digests, strict=True))
    assert columns[0] == columns[2] != columns[1]


def test_from_connectome_freezes_and_has_capacities(backend_factory: Factory) -> None:
    connectome = network()
    npu = NPU.from_connectome(connectome, backend=backend_factory)
    assert connectome.frozen
    assert (npu.neuron_capacity, npu.synapse_capacity) == (60, 770)
    other = NPU.from_connectome(connectome, backend=backend_factory, synapse_capacity=720)
    assert other.synapse_capacity == 720
    for options in ({"neuron_capacity": 59}, {"synapse_capacity": 719}):
        with pytest.raises(CapacityError, match="less than"):
            NPU.from_connectome(connectome, backend=backend_factory, **options)  # type: ignore[arg-type]


def test_chosen_backend_and_its_reason() -> None:
    npu = NPU(1, backend="reference")
    assert npu.backend == "reference"
    assert npu.backend_reason.startswith("chosen: plain NumPy")
    auto = NPU(1)
    assert auto.backend in ("cuda", "cpu", "reference")
    assert auto.backend_reason.startswith("auto took")
    assert auto.backend == "cuda" or "not cuda: " in auto.backend_reason
    for choice, device, message in (
        ("gpu", None, "'gpu' is not one of auto, reference, cpu, cuda"),
        ("cpu", 0, "has no devices"),
        ("cuda", -1, "the number of a GPU.: -1 is not"),
        (ReferencePlatform, 1, "has its device already"),
        (3, None, "3 is neither"),
        (dict, None, "is neither"),
    ):
        with pytest.raises(NetworkError, match=message):
            open_platform(choice, device)  # type: ignore[arg-type]
