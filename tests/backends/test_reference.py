"""The oracle is held to the scalar model, an independent reading of the semantics, and to its own contract."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from golden_cases import CASES, load_case, run_case
from hypothesis import given, settings
from networks import SMALL_SIZES, Plan, agree, plans
from scalar_model import ScalarModel

from gpu_npu.backends.base import PHASES
from gpu_npu.backends.reference import Reference, ReferencePlatform, reference
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Connectome, NetworkError, NeuronIndexError, NpuError, SynapseBatch

small_plans = plans(sizes=SMALL_SIZES, hubs=(0, 0, 40))

BRANCHES = (
    "above the limit",
    "ceiled",
    "count broken",
    "count cleared",
    "count cleared by the burst clock",
    "count full",
    "countdown full",
    "deleted under way",
    "divided",
    "drew",
    "driven",
    "fired",
    "floored",
    "flushed",
    "forced",
    "forced anyway",
    "forced while blocked",
    "forgot",
    "inhibited",
    "leaked",
    "nothing to remove",
    "nothing to reweight",
    "psp fell",
    "real",
    "real, rounded to 2^-32",
    "rectified",
    "removed",
    "reweighted",
    "sated",
    "saturated",
    "snoozed",
    "spared by the reset",
    "stopped",
    "target absent",
    "ticked",
    "unlucky",
    "unrounded potential",
)
"""What the scalar model counts: each branch of a burst, and what edits found."""


def test_random_networks_agree_with_the_scalar_model() -> None:
    """And they go through every branch of the semantics often enough for the agreement to mean something."""
    seen: Counter[str] = Counter()

    @settings(max_examples=max(250, settings().max_examples))
    @given(small_plans)
    def look(plan: Plan) -> None:
        model = ScalarModel()
        agree(plan, ReferencePlatform(), model)
        seen.update(model.seen)

    look()
    weak = {name: seen[name] for name in BRANCHES if seen[name] < 10}
    assert not weak, f"branches hardly taken: {weak}"


@pytest.mark.long
@settings(max_examples=10_000)
@given(small_plans)
def test_ten_thousand_random_networks_agree_with_the_scalar_model(plan: Plan) -> None:
    agree(plan, ReferencePlatform(), ScalarModel())


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("edge_hubs", "edge_sum_int64")])
def test_scalar_model_gives_the_golden_cases(name: str) -> None:
    """All but the two with tens of thousands of synapses, which plain loops take too long for."""
    run_case(load_case(name), ScalarModel())


def loaded(connectome: Connectome | None = None, window: int = 3) -> Reference:
    """A chain 0 -> 1 -> 2 where each spike makes the next, unless another network is given."""
    if connectome is None:
        connectome = Connectome(4, 10)
        connectome.add_neurons(3, threshold=1.0)
        connectome.add_synapses([0, 1], [1, 2], [10, 20], [1, 1])
    return ReferencePlatform().load(connectome, NetworkShape.of(connectome, ledger_window=window))


def ids(*values: int) -> Any:
    return np.array(values, np.uint32)


def reals(*values: float) -> Any:
    return np.array(values, np.float32)


def test_a_spike_takes_one_burst_a_synapse() -> None:
    backend = loaded()
    backend.inject(ids(0), reals(1))
    assert [backend.burst(number).fired.tolist() for number in (1, 2, 3, 4)] == [[0], [1], [2], []]
    assert [backend.fired_in(number).tolist() for number in (2, 3, 4)] == [[1], [2], []]
    assert backend.fired_on_device().tolist() == []
    with pytest.raises(KeyError):
        backend.fired_in(1)  # the window is three bursts


def test_the_network_that_was_loaded_is_left_alone() -> None:
    connectome = Connectome(2, 2)
    connectome.add_neurons(2)
    connectome.add_synapse(0, 1, 1, 1)
    connectome.freeze()
    backend = loaded(connectome)
    backend.remove_synapses(ids(0), ids(1))
    backend.write("threshold", ids(0), reals(7))
    backend.inject(ids(1), reals(0.5))
    backend.burst(1)
    assert connectome.synapse_count == 1
    assert connectome.neurons.threshold.tolist() == [1, 1]
    assert connectome.neurons.membrane_potential.tolist() == [0, 0]


def test_what_is_staged_and_what_is_returned_belongs_to_nobody_else() -> None:
    backend, neurons, potentials = loaded(), ids(0), reals(1)
    backend.inject(neurons, potentials)
    neurons[:], potentials[:] = 2, 0
    output = backend.burst(1)
    assert output.fired.tolist() == [0]
    output.fired[:] = 3
    for array in (*backend.fire_queue(), *backend.candidates(), backend.fired_in(1), backend.fired_on_device(), backend.read("threshold")):
        array[:] = 3
    assert backend.fire_queue()[0].tolist() == backend.fired_in(1).tolist() == [0]
    assert backend.burst(2).fired.tolist() == [1]


def test_inject_device_takes_what_dlpack_passes() -> None:
    class Exporter:
        """Anything with the protocol, not an ndarray."""

        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **arguments: Any) -> Any:
            return self.array.__dlpack__(**arguments)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    backend = loaded()
    backend.inject_device(Exporter(ids(0, 0, 2)), Exporter(reals(0.5, 0.5, 1e-39)))
    output = backend.burst(1)
    assert output.fired.tolist() == [0] and output.counters[0] == 3
    assert backend.candidates()[1].tolist() == [1, 0]  # a subnormal potential is settled at the door


@pytest.mark.parametrize(
    ("neurons", "potentials", "error", "message"),
    [
        (ids(0, 1), reals(1), NetworkError, "2 neurons but 1 potentials"),
        (ids(1, 0), reals(1, 1), NetworkError, r"neurons\[1\] = 0 comes after 1"),
        (ids(0, 4), reals(1, 1), NeuronIndexError, r"neurons\[1\]: 4 is not a neuron id; .* are 0 to 3"),
        (ids(0), reals(np.nan), NetworkError, r"potentials\[0\] = nan"),
        (ids(0, 1), reals(1, np.inf), NetworkError, r"potentials\[1\] = inf"),
        (np.array([0]), reals(1), NetworkError, "uint32 array is needed, not int64"),
        (ids(0), np.array([1.0]), NetworkError, "float32 array is needed, not float64"),
        (ids(0, 1, 2, 3)[::2], reals(1, 1), NetworkError, "strided"),
        (ids(0).reshape(1, 1), reals(1), NetworkError, r"shape \(1, 1\)"),
        ([0], reals(1), NetworkError, "list is not an array"),
    ],
)
def test_inject_device_refuses_and_stages_nothing(neurons: Any, potentials: Any, error: type[Exception], message: str) -> None:
    backend = loaded()
    with pytest.raises(error, match=message):
        backend.inject_device(neurons, potentials)
    assert backend.burst(1).counters[0] == 0


def test_removed_synapses_make_room() -> None:
    """Capacity is of valid synapses: what was removed does not count against it."""
    connectome = Connectome(1, 2)
    connectome.add_neurons(1)
    connectome.add_synapses([0, 0], [0, 0], [1, 2], [1, 1])
    backend = loaded(connectome)
    for weight in range(3, 9):
        assert backend.remove_synapses(ids(0), ids(0)).tolist() == [True]
        backend.add_synapses(SynapseBatch(ids(0), ids(0), *np.array([[weight], [1]], np.uint8), np.array([False]), np.array([1], np.uint8)))
    assert backend.synapses_to(ids(0)).weight.tolist() == [7, 8]
    assert backend.synapse_count == 2


def test_lists_of_synapses_come_in_batches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BATCH", 2)
    connectome = Connectome(3, 5)
    connectome.add_synapses([2, 0, 1, 0, 1], [0, 1, 1, 0, 1], [1, 2, 3, 4, 5], 1)
    batches = list(loaded(connectome).synapses_from())
    assert [len(batch) for batch in batches] == [2, 2, 1]
    whole = SynapseBatch.concatenate(batches)
    assert whole.source.tolist() == [0, 0, 1, 1, 2]
    assert whole.target.tolist() == [0, 1, 1, 1, 0]
    assert whole.weight.tolist() == [4, 2, 3, 5, 1]


def test_timing_is_off_unless_asked_for_and_covers_every_phase() -> None:
    backend = loaded()
    assert backend.phase_seconds is None
    backend.time_phases(True)
    backend.burst(1)
    seconds = backend.phase_seconds
    assert seconds is not None and set(seconds) == set(PHASES)
    assert all(seconds[phase] > 0 for phase in PHASES if phase != "transfer")
    backend.time_phases(False)
    assert backend.phase_seconds is None


def test_memory_and_edit_statistics_count() -> None:
    backend = loaded()
    memory = backend.memory()
    assert memory["rows"] == 10 * (4 + 4 + 1 + 1 + 1 + 1)
    assert memory["neurons"] == 4 * (4 * 5 + 2 * 5 + 1 + 4 + 12 + 2)
    backend.inject(ids(0), reals(1))
    assert backend.memory()["staging"] == 8
    backend.burst(1)
    assert (backend.memory()["staging"], backend.memory()["ledger"]) == (0, 4)
    assert set(backend.edit_statistics().values()) == {0}
    backend.remove_synapses(ids(0, 0), ids(1, 1))
    backend.compact()
    backend.reserve(neuron_capacity=4, synapse_capacity=11)
    expected = {"bytes_touched": 1, "rows_moved": 0, "compactions": 1, "bytes_compacted": 12, "growths": 1}
    assert backend.edit_statistics() == expected


def test_a_closed_backend_says_so() -> None:
    backend = loaded()
    assert backend.description
    backend.close()
    for call in (lambda: backend.burst(1), lambda: backend.read("valid"), backend.compact, backend.memory):
        with pytest.raises(NpuError, match="closed"):
            call()
