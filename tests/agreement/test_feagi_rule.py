"""FeagiRule: every backend is held to the scalar model and to the reference, over random networks with edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BACKENDS
from hypothesis import given, settings
from networks import SMALL_SIZES, Plan, agree, feagi_plans
from scalar_model import ScalarModel

from gpu_npu import NPU, Connectome, FeagiRule, NetworkError, Snapshot, SumOverflowError, WindowRule
from gpu_npu.backends.base import Platform
from gpu_npu.backends.executor import plasticity
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import load, save

Factory = Callable[[], Platform]
BRANCHES = (
    "delivered from before",
    "feagi cut",
    "feagi down",
    "feagi down to the largest",
    "feagi up",
    "feagi up, in bursts of their own",
    "released",
    "reweighted what was held back",
)
"""What the scalar model counts of the rule."""


def test_random_rules_agree_with_the_scalar_model() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=max(60, settings().max_examples))
    @given(feagi_plans(sizes=SMALL_SIZES, hubs=(0, 0, 40)))
    def look(plan: Plan) -> None:
        model = ScalarModel()
        agree(plan, ReferencePlatform(), model)
        seen.update(model.seen)

    look()
    weak = {name: seen[name] for name in BRANCHES if seen[name] < 5}
    assert not weak, f"branches hardly taken: {weak}"


@pytest.mark.parametrize("backend_factory", [name for name in BACKENDS if name != "reference"], indirect=True)
@settings(max_examples=25)
@given(plan=feagi_plans())
def test_random_networks_learn_as_on_the_reference(backend_factory: Factory, plan: Plan) -> None:
    agree(plan, backend_factory(), ReferencePlatform())


def pairs(rule: FeagiRule, weight: int = 100) -> Connectome:
    """Two neurons of area 0, each with a synapse to one of area 1; each fires when it is forced to, and only then."""
    network = Connectome(4, 2, plasticity=[rule])
    network.add_neurons(4, threshold=1e30, cortical_area=[0, 0, 1, 1])
    network.add_synapses([0, 1], [2, 3], weight, 1)
    return network


def run(npu: NPU, *bursts: Sequence[int]) -> list[list[int]]:
    """Force these neurons in each burst; the weights after it."""
    told = []
    for fired in bursts:
        npu.force_fire(np.array(fired, np.uint32))
        npu.process_burst()
        told.append(npu.synapse_array.weight.tolist())
    return told


def test_the_rule_of_the_page(backend_factory: Factory) -> None:
    """Both ends in some burst of the window, one of them, none; no change before the window is full."""
    with NPU.from_connectome(pairs(FeagiRule(0, 1, 2, 5, 2, 104)), backend=backend_factory()) as npu:
        told = run(npu, [0], [2], [], [], [1], [], [])
    assert [first for first, _ in told] == [100, 104, 102, 102, 102, 102, 102]
    assert [second for _, second in told] == [100, 100, 100, 100, 98, 96, 96]


def test_a_weight_above_the_largest_falls_to_it_and_depression_ends_at_0(backend_factory: Factory) -> None:
    with NPU.from_connectome(pairs(FeagiRule(0, 1, 1, 1, 70, 50)), backend=backend_factory()) as npu:
        assert run(npu, [1], [1], [0, 2]) == [[100, 30], [100, 0], [50, 0]]


def test_a_burst_delivers_weights_from_before_the_last_one(backend_factory: Factory) -> None:
    """What fired in burst t is delivered in t + 1 with weights as they stood after t - 1, whoever looks at them in between."""
    with NPU.from_connectome(pairs(FeagiRule(0, 1, 1, 7, 1)), backend=backend_factory()) as npu:
        delivered = []
        for _ in range(4):
            run(npu, [0, 2])
            delivered.append(npu.fire_candidate_list.get(2) or 0)
    assert delivered == [0, 100, 107, 114]


def test_an_edit_acts_on_what_was_learnt_and_is_delivered(backend_factory: Factory) -> None:
    with NPU.from_connectome(pairs(FeagiRule(0, 1, 1, 7, 1)), backend=backend_factory()) as npu:
        run(npu, [0, 1, 2, 3])
        npu.update_weight(0, 2, 50)
        assert npu.synapse_array.weight.tolist() == [50, 107]
        run(npu, [])
        assert npu.fire_candidate_list.potentials.tolist() == [50, 100]
        assert npu.synapse_array.weight.tolist() == [50, 107]


def test_a_run_goes_on_from_the_middle_on_any_backend(backend_factory: Factory, tmp_path: Path) -> None:
    """With what is held back; through a file, from this backend to the reference and back, and after the clock starts again."""
    rng = np.random.default_rng(2)
    network = fixed_out_degree(60, 9, seed=3, weight=(1, 200), threshold=1e30, cortical_area=np.arange(60) % 2)
    network.set_plasticity([FeagiRule(0, 1, 3, 5, 2), FeagiRule(1, 1, 40, 1, 1, 180)])
    bursts = [rng.integers(0, 60, 8) for _ in range(90)]

    def state(npu: NPU) -> tuple[object, ...]:
        return npu.synapse_array.weight.tolist(), npu.fire_candidate_list.potentials.tolist()

    with NPU.from_connectome(network, backend="reference") as whole:
        expected = []
        for burst in bursts:
            run(whole, burst)
            expected.append(state(whole))
    npu = NPU.from_connectome(network, backend=backend_factory())
    for number, burst in enumerate(bursts):
        if number % 7 == 6:
            npu.snapshot().write(tmp_path / "run")
            npu.close()
            npu = NPU.from_snapshot(Snapshot.read(tmp_path / "run"), backend=backend_factory() if number % 2 else "reference")
        run(npu, burst)
        assert state(npu) == expected[number], f"burst {number + 1}"
    npu.close()


def test_the_clock_starts_again_with_what_is_held_back(backend_factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plasticity, "CLOCK_SPAN", 10)
    with NPU.from_connectome(pairs(FeagiRule(0, 1, 4, 7, 1)), backend=backend_factory()) as npu:
        told = run(npu, *[[0, 2] if burst % 3 else [1] for burst in range(60)])
        candidates = npu.fire_candidate_list.potentials.tolist()
    with NPU.from_connectome(pairs(FeagiRule(0, 1, 4, 7, 1)), backend="reference") as npu:
        assert told == run(npu, *[[0, 2] if burst % 3 else [1] for burst in range(60)])
        assert candidates == npu.fire_candidate_list.potentials.tolist()


def test_what_is_held_back_counts_in_the_proof_of_sums(backend_factory: Factory, tmp_path: Path) -> None:
    """Nine weights of 2**21 have just fallen to 1: the next burst delivers them as they were, so nothing that makes sums too large
    for that is admitted, nor a checkpoint that says more of them."""
    network = Connectome(12, 12, weight_dtype=np.float32, plasticity=[FeagiRule(0, 1, 1, 1, 0, 1)])
    network.add_neurons(12, threshold=1e30, cortical_area=[0] * 9 + [1, 2, 2])
    network.add_synapses(np.arange(9), 9, np.float32(2**20), 200)
    with NPU.from_connectome(network, backend=backend_factory()) as npu:
        npu.force_fire(np.arange(10))
        npu.process_burst()
        assert npu.synapse_array.weight.tolist() == [1.0] * 9
        with pytest.raises(SumOverflowError):
            npu.add_synapses([10], [9], np.float32(2**20), 255)
        snapshot = npu.snapshot()
        snapshot.write(tmp_path / "run")
        assert npu.process_burst().synaptic_injections == 9
        npu.add_synapses([10], [9], np.float32(2**20), 255)
    held = replace(snapshot.flight.learning, delivered=snapshot.flight.learning.delivered * np.float32(4))
    with pytest.raises(SumOverflowError):
        NPU.from_snapshot(replace(snapshot, flight=replace(snapshot.flight, learning=held)), backend=backend_factory())
    for wrong, said in ((np.nan, "delivered.0.: nan is not a finite"), (-1.0, "delivered.0.: -1.0 is outside")):
        held = replace(snapshot.flight.learning, delivered=np.full(9, wrong, np.float32))
        with pytest.raises(NetworkError, match=said):
            replace(snapshot, flight=replace(snapshot.flight, learning=held))


def test_long_silence_and_long_windows(backend_factory: Factory) -> None:
    """A source that is silent while its target fires owes steps; a window longer than what is remembered bit by bit."""
    with NPU.from_connectome(pairs(FeagiRule(0, 1, 150, 3, 1), 250), backend=backend_factory()) as npu:
        npu.schedule_force(150, [2, 1])
        npu.schedule_force(220, [0])
        npu.schedule_force(380, [2])
        shown = []
        for burst in (149, 151, 220, 300, 369, 370, 380, 600):
            npu.run(burst - npu.burst_count)
            shown.append(npu.synapse_array.weight.tolist())
    # Until 219 the target alone, 220 to 299 both, to 369 the source alone; from 380 to 529 the target alone.
    assert shown == [[250, 250], [248, 248], [183, 179], [254, 100], [185, 100], [185, 100], [184, 100], [35, 100]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 0}, "window: 0"),
        ({"up": -1.0}, "up: -1 is below 0"),
        ({"down": float("nan")}, "down: nan"),
        ({"up": 0.5}, "up: 0.5 is no integer"),
        ({"max_weight": 12.25}, "max_weight: 12.25 is no integer"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        pairs(FeagiRule(**{"source_area": 0, "target_area": 1, "window": 1, "up": 1, "down": 1, **values}))


def test_float32_weights_need_a_bound_that_sums_have_room_for() -> None:
    for up, most, message in ((1, None, "max_weight: none, and float32"), (1, 1e30, "a plasticity rule can raise it"), (0, None, "")):
        network = Connectome(2, 1, weight_dtype=np.float32)
        network.add_neurons(2, cortical_area=[0, 1])
        network.add_synapses(0, 1, 2.5, 3)
        with pytest.raises(NetworkError, match=message) if message else nullcontext():
            network.set_plasticity([FeagiRule(0, 1, 1, up, 0.25, most)])
            network.validate()


def test_one_rule_a_pair_of_areas_and_no_other_kinds_beside(backend_factory: Factory) -> None:
    with NPU.from_connectome(pairs(FeagiRule(0, 1, 1, 7, 1)), backend=backend_factory()) as npu:
        with pytest.raises(NetworkError, match="two FeagiRules act from area 0 to 1"):
            npu.register_plasticity(FeagiRule(0, 1, 3, 1, 1))
        with pytest.raises(NetworkError, match="one or the other"):
            npu.register_plasticity(WindowRule(1, 1, 3, 1, 1))
        npu.register_plasticity(FeagiRule(1, 0, 3, 1, 1))
        assert npu.unregister_plasticity(0) == FeagiRule(0, 1, 1, 7, 1)


def test_files_hold_the_rule(tmp_path: Path) -> None:
    rule = FeagiRule(0, 1, 3, 7, 1, 99)
    save(pairs(rule), tmp_path / "net.npz")
    assert load(tmp_path / "net.npz").plasticity == (rule,)
