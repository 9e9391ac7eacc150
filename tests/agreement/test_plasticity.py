"""Plasticity: every backend that learns is held to the scalar model, to closed forms, and to what learning is for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
import pytest
from conftest import BACKENDS
from golden_cases import assert_bits
from hypothesis import given, settings
from networks import SMALL_SIZES, Maker, Plan, agree, perform, plastic_plans
from numpy.typing import NDArray
from scalar_model import ScalarModel, decay

from gpu_npu import NPU, STATE_FIELDS, Area, Connectome, CustomRule, NetworkError, PairRule, PlasticityRule, SynapseBatch, WindowRule
from gpu_npu.backends.base import Platform
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.connectome.plasticity import decay_table

Factory = Callable[[], Platform]
learners = pytest.mark.parametrize("backend_factory", BACKENDS, indirect=True)
small_plans = plastic_plans(sizes=SMALL_SIZES, hubs=(0, 0, 40))

BRANCHES = (
    "cut at a bound",
    "depressed, additive, all",
    "depressed, additive, nearest",
    "depressed, multiplicative, all",
    "depressed, multiplicative, nearest",
    "outside the bounds",
    "pair in one burst",
    "pair moved a residue alone",
    "pair moved a weight",
    "potentiated, additive, all",
    "potentiated, additive, nearest",
    "potentiated, multiplicative, all",
    "potentiated, multiplicative, nearest",
    "residue lost",
    "residue reset",
    "synapse of a deleted neuron",
    "trace of several spikes",
    "window cut",
    "window down",
    "window up",
    "window up through several bursts",
)
"""What the scalar model counts of plasticity."""


# -- against the scalar model, and against the reference ----------------------------------------------------------------
def test_random_rules_agree_with_the_scalar_model() -> None:
    """With edits, deletions, changes of areas and resets; rules registered and unregistered at any burst, several at once."""
    seen: Counter[str] = Counter()

    @settings(max_examples=max(60, settings().max_examples))
    @given(small_plans)
    def look(plan: Plan) -> None:
        model = ScalarModel()
        agree(plan, ReferencePlatform(), model)
        seen.update(model.seen)

    look()
    weak = {name: seen[name] for name in BRANCHES if seen[name] < 10}
    assert not weak, f"branches hardly taken: {weak}"


@pytest.mark.long
@settings(max_examples=5_000)
@given(small_plans)
def test_five_thousand_random_networks_learn_as_the_scalar_model(plan: Plan) -> None:
    agree(plan, ReferencePlatform(), ScalarModel())


@pytest.mark.parametrize("backend_factory", [name for name in BACKENDS if name != "reference"], indirect=True)
@settings(max_examples=10)
@given(plan=plastic_plans())
def test_random_networks_learn_as_on_the_reference(backend_factory: Factory, plan: Plan) -> None:
    agree(plan, backend_factory(), ReferencePlatform())


@pytest.mark.long
@pytest.mark.parametrize("backend_factory", [name for name in BACKENDS if name != "reference"], indirect=True)
def test_two_thousand_random_networks_learn_as_on_the_reference(backend_factory: Factory) -> None:
    @settings(max_examples=2_000, derandomize=False, print_blob=True)
    @given(plan=plastic_plans())
    def look(plan: Plan) -> None:
        agree(plan, backend_factory(), ReferencePlatform())

    look()


@pytest.mark.parametrize("tau", [0.1, 0.7, 1.0, 20.0, 33.3, 2000.0])
def test_the_decay_is_the_exponential_rounded(tau: float) -> None:
    table = decay_table(tau)
    assert table.dtype == np.uint32 and table[0] == 2**20 and table[-1] > 0
    steps = [*range(min(len(table), 60)), *range(0, len(table), 997), len(table) - 1]
    assert [int(table[n]) for n in steps] == [decay(n, tau) for n in steps]
    assert decay(len(table), tau) == 0


# -- small networks whose spikes are given ------------------------------------------------------------------------------
class Net:
    """Neurons that fire when they are forced to, and only then."""

    def __init__(
        self, factory: Factory, areas: list[int], synapses: list[tuple[int, int, int]], *rules: PlasticityRule, dtype: Any = np.uint8
    ) -> None:
        self.connectome = Connectome(len(areas), len(synapses), weight_dtype=dtype)
        self.connectome.add_neurons(len(areas), threshold=1e30, cortical_area=areas)
        source, target, weight = zip(*synapses, strict=True)
        self.connectome.add_synapses(source, target, weight, 1)
        self.backend = factory().load(self.connectome, NetworkShape.of(self.connectome, ledger_window=2))
        for handle, rule in enumerate(rules):
            self.backend.add_rule(handle, rule, 0)
        self.now = 0

    def fire(self, *neurons: int) -> None:
        self.now += 1
        self.backend.force(np.array(neurons, np.uint32))
        assert set(self.backend.burst(self.now).fired.tolist()) == set(neurons)

    def batch(self) -> SynapseBatch:
        return SynapseBatch.concatenate(self.backend.synapses_from())

    @property
    def weights(self) -> list[int]:
        return [int(w) for w in self.batch().weight]

    @property
    def effective(self) -> list[int]:
        """Weight and residue in units of 2**-16, by source, target and age."""
        return [int(w) * 2**16 + int(r) for w, r in zip(self.batch().weight, self.backend.residues(), strict=True)]


def rounded(x: Decimal) -> int:
    return int(x.to_integral_value(ROUND_HALF_UP))


def closed_form(rule: PairRule, lag: int, weight: int, top: int) -> int:
    """The change of an isolated pair in units of 2**-16, by the page's formulas in decimal numbers."""
    step, tau = (rule.a_plus, rule.tau_plus) if lag > 0 else (rule.a_minus, rule.tau_minus)
    if lag == 0:
        return 0
    trace = rounded((-Decimal(abs(lag)) / Decimal(tau)).exp() * 2**20)
    amount = rounded(Decimal(rounded(Decimal(step) * 2**16) * trace) / 2**20)
    high = (top if rule.w_max is None else rule.w_max) - rule.w_min
    room = (rule.w_min + high - weight if lag > 0 else weight - rule.w_min) * 2**16
    if rule.bounds == "multiplicative":
        amount = rounded(Decimal(min(amount, high * 2**16)) * room / (high * 2**16))
    return int(math.copysign(min(amount, room), lag))


@learners
@pytest.mark.parametrize("pairing", ["nearest", "all"])
@pytest.mark.parametrize("bounds", ["additive", "multiplicative"])
def test_isolated_pairs_have_the_closed_form(backend_factory: Factory, pairing: str, bounds: str) -> None:
    """Every lag from -50 to 50 at once: one source, and 101 targets that fire around its only spike."""
    lags = list(range(-50, 51))
    for dtype, weight, rule in (
        (np.uint8, 100, PairRule(3, 4, 2.5, 1.75, 20, 33.3, pairing, bounds)),
        (np.uint16, 41_000, PairRule(3, 4, 12_345.678, 54_321.01, 7.7, 11, pairing, bounds, 5, 60_000)),
    ):
        net = Net(backend_factory, [3] + [4] * 101, [(0, 1 + i, weight) for i in range(101)], rule, dtype=dtype)
        for t in range(-50, 51):
            net.fire(*([0] if t == 0 else []), 1 + lags.index(t))
        wanted = [weight * 2**16 + closed_form(rule, lag, weight, int(np.iinfo(dtype).max)) for lag in lags]
        assert net.effective == wanted
        assert net.weights == [math.floor(w / 2**16 + 0.5) for w in wanted]
        assert len(set(wanted)) > 95 and wanted[50] == weight * 2**16
        net.backend.close()


@learners
def test_the_example_of_the_page(backend_factory: Factory) -> None:
    net = Net(backend_factory, [0, 1], [(0, 1, 7)], PairRule(0, 1, 1, 1, 10, 10))
    for fired in ((), (), (0,), (), (1,)):
        net.fire(*fired)
    assert (net.weights, net.backend.residues().tolist()) == ([8], [-11880])
    net.fire(1)
    assert (net.weights, net.backend.residues().tolist()) == ([9], [-28866])


@learners
def test_which_spikes_make_pairs(backend_factory: Factory) -> None:
    """Source in bursts 1 and 3, target in 4: with "nearest" lag 1 alone, with "all" lags 1 and 3, rounded on the way."""
    for tau in (3, 5, 7, 11):
        one, three = decay(1, tau), decay(3, tau)
        for pairing, trace in (("nearest", one), ("all", (((decay(2, tau) + 2**20) * one + 2**19) >> 20))):
            net = Net(backend_factory, [0, 1], [(0, 1, 100)], PairRule(0, 1, 16, 16, tau, tau, pairing))
            for fired in ((0,), (), (0,), (1,)):
                net.fire(*fired)
            assert net.effective == [100 * 2**16 + trace]  # 16 units of 2**-20 are one of 2**-16
            assert abs(trace - (one + three if pairing == "all" else one)) <= 1
            net.backend.close()


@learners
def test_steps_larger_than_the_range_end_at_the_bound(backend_factory: Factory) -> None:
    """The largest step there is, of a trace of many spikes: the products of a multiplicative step fit 64 bits."""
    for bounds in ("additive", "multiplicative"):
        rule = PairRule(0, 1, 65535, 65535, 2000, 2000, "all", bounds, 3, 65535)
        net = Net(backend_factory, [0, 1, 1], [(0, 1, 4), (0, 2, 65534)], rule, dtype=np.uint16)
        for _ in range(40):
            net.fire(0)
        assert net.weights == [4, 65534]
        net.fire(1, 2)
        assert net.effective == [65535 * 2**16] * 2
        net.fire(1, 2)
        net.fire(0)
        assert net.effective == [3 * 2**16] * 2
        net.backend.close()


@learners
@pytest.mark.parametrize("bounds", ["additive", "multiplicative"])
def test_a_weight_outside_the_bounds_comes_in_by_steps(backend_factory: Factory, bounds: str) -> None:
    rule = PairRule(0, 1, 8, 8, 2000, 2000, bounds=bounds, w_min=50, w_max=100)
    net = Net(backend_factory, [0, 1], [(0, 1, 200), (0, 1, 20)], rule)
    net.fire(0)
    net.fire(1)
    share = 80 / 50 if bounds == "multiplicative" else 1  # of the distance to the far bound, which is farther than the range
    assert net.weights == [200, 20 + round(8 * share)]
    net.fire(0)
    share = 150 / 50 if bounds == "multiplicative" else 1
    assert net.weights == [200 - round(8 * share), 20 + (13 if bounds == "multiplicative" else 8)]


@learners
def test_depression_comes_before_potentiation(backend_factory: Factory) -> None:
    """Both ends fired in burst 1 and do so in burst 2, with a weight that has no room upwards, or none downwards."""
    for weight, wanted in ((10, 10), (0, 6)):
        net = Net(backend_factory, [0, 0], [(0, 1, weight)], PairRule(0, 0, 6, 8, 2000, 2000, w_max=10))
        net.fire(0, 1)
        assert net.weights == [weight]
        net.fire(0, 1)
        assert net.weights == [wanted - 2 if weight else wanted]


@learners
def test_self_loops_and_parallel_synapses_learn(backend_factory: Factory) -> None:
    rule = PairRule(0, 0, 3, 1, 4, 4, bounds="multiplicative")
    net = Net(backend_factory, [0, 0], [(0, 0, 100), (0, 1, 10), (0, 1, 200)], rule)
    net.fire(0)
    net.fire(0)
    net.fire(1)
    model = ScalarModel()
    model.load(net.connectome, NetworkShape.of(net.connectome, ledger_window=2))
    model.add_rule(0, rule, 0)
    for burst, fired in enumerate(([0], [0], [1]), 1):
        model.force(fired)
        model.burst(burst)
    assert net.weights == next(model.synapses_from()).weight.tolist()
    assert net.backend.residues().tolist() == model.residues().tolist()
    assert net.weights[0] > 100 and net.weights[1] > 10 and net.weights[2] > 200 and net.weights[2] - 200 < net.weights[1] - 10


@learners
def test_two_patterns_in_turn(backend_factory: Factory) -> None:
    """A before B, 200 times: A -> B grows, B -> A does not, and what has no part in it stays as it was, exactly."""
    rng = np.random.default_rng(1)
    first, second, others = np.arange(20), np.arange(20, 40), np.arange(40, 60)
    areas = [1] * 40 + [2] * 20
    pairs = [(int(i), int(j)) for i in range(60) for j in range(60) if rng.random() < 0.4]
    synapses = [(i, j, int(rng.integers(40, 60))) for i, j in pairs]
    net = Net(backend_factory, areas, synapses, PairRule(1, 1, 0.3, 0.35, 2, 2, w_min=10, w_max=90))
    before = net.batch()
    for _ in range(200):
        net.fire(*first, 40)  # a neuron of another area fires as well
        net.fire(*second)
        for _ in range(4):
            net.fire()
    after = net.batch()
    change = after.weight.astype(int) - before.weight.astype(int)

    def between(sources: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
        return np.isin(after.source, sources) & np.isin(after.target, targets)

    assert (change[between(first, second)] >= 25).all()
    assert (change[between(second, first)] <= -25).all()
    rest = ~(between(first, second) | between(second, first))
    within = between(first, first) | between(second, second)
    assert (change[within] <= 0).all()  # they fire together, which is no pair, and six bursts apart, which depresses more
    unrelated = rest & ~within
    assert unrelated.sum() > 400 and between(others, first).any() and between(second, others).any()
    np.testing.assert_array_equal(change[unrelated], 0)
    np.testing.assert_array_equal(net.backend.residues()[unrelated], 0)


# -- what happens to a residue ------------------------------------------------------------------------------------------
@learners
def test_a_residue_belongs_to_its_synapse(backend_factory: Factory) -> None:
    """Two parallel synapses and one more: what is removed, added, set and compacted takes no other's residue."""
    net = Net(backend_factory, [0, 1, 1], [(0, 1, 10), (0, 1, 20), (0, 2, 30)], PairRule(0, 1, 0.25, 0, 9, 9))
    ids = np.array([0], np.uint32), np.array([1], np.uint32)
    net.fire(0)
    net.fire(1)
    step = closed_form(PairRule(0, 1, 0.25, 0, 9, 9), 1, 10, 255)
    assert net.effective == [10 * 2**16 + step, 20 * 2**16 + step, 30 * 2**16]
    net.backend.remove_synapses(*ids)
    assert net.effective == [20 * 2**16 + step, 30 * 2**16]
    weight, one = np.array([[40], [1]], np.uint8)
    net.backend.add_synapses(SynapseBatch(*ids, weight, one, np.array([False]), one))
    assert net.effective == [20 * 2**16 + step, 40 * 2**16, 30 * 2**16]
    net.backend.compact()
    assert net.effective == [20 * 2**16 + step, 40 * 2**16, 30 * 2**16]
    net.backend.reweight_synapses(*ids, np.array([20], np.uint8))
    assert net.effective == [20 * 2**16, 40 * 2**16, 30 * 2**16]
    net.fire()
    net.fire(2)
    late = closed_form(PairRule(0, 1, 0.25, 0, 9, 9), 3, 10, 255)
    assert net.effective == [20 * 2**16, 40 * 2**16, 30 * 2**16 + late]


@learners
def test_a_residue_is_lost_where_no_pair_rule_acts_at_the_end_of_a_burst(backend_factory: Factory) -> None:
    rule = PairRule(0, 1, 0.25, 0, 9, 9)
    net = Net(backend_factory, [0, 1], [(0, 1, 10)], rule)
    net.fire(0)
    net.fire(1)
    learnt = net.effective
    assert learnt[0] > 10 * 2**16
    target = np.array([1], np.uint32)
    net.backend.write("cortical_area", target, np.array([7], np.uint32))
    net.backend.write("cortical_area", target, np.array([1], np.uint32))
    net.backend.add_rule(1, replace(rule, a_plus=0), net.now)
    net.backend.remove_rule(0)
    net.fire()
    assert net.effective == learnt  # away between two bursts only, and kept by another rule
    net.backend.remove_rule(1)
    net.fire()
    assert net.effective == [10 * 2**16]


@learners
def test_a_reset_forgets_spikes_and_keeps_what_was_learnt(backend_factory: Factory) -> None:
    net = Net(backend_factory, [0, 1], [(0, 1, 10)], PairRule(0, 1, 0.25, 0, 9, 9), WindowRule(0, 1, 2, 100, 0))
    net.fire(0)
    net.fire(1)
    net.fire(0, 1)
    learnt = net.effective
    net.backend.reset({name: net.backend.read(name) for name in STATE_FIELDS})
    assert net.effective == learnt
    net.now = 0
    net.fire(0, 1)  # the second burst in a row, had there been no reset
    assert net.effective == learnt
    net.fire(0, 1)
    assert net.effective == [learnt[0] + closed_form(PairRule(0, 1, 0.25, 0, 9, 9), 1, 10, 255) + 100 * 2**16]


@learners
def test_rules_act_in_the_order_registered(backend_factory: Factory) -> None:
    """A target that fires alone: -255 and +3 leave 3, +3 and -255 leave 0."""
    down, up = WindowRule(0, 1, 1, 0, 255), PairRule(0, 1, 3, 0, 2000, 2000)
    for rules, wanted in (((down, up), 3), ((up, down), 0)):
        net = Net(backend_factory, [0, 1], [(0, 1, 200)], *rules)
        net.fire(0)
        net.fire(1)
        assert net.weights == [wanted]


# -- through the NPU ----------------------------------------------------------------------------------------------------
WINDOW = WindowRule(0, 1, 2, 5, 1)
PAIR = PairRule(0, 1, 2.0, 1.0, 10, 10)


def pair_of_areas(*rules: PlasticityRule) -> Connectome:
    connectome = Connectome(4, 8, plasticity=rules)
    connectome.add_neurons(4, threshold=1e9, cortical_area=[0, 0, 1, 1])
    connectome.add_synapses([0, 0, 1, 2], [2, 3, 2, 0], [100, 100, 100, 100], 1)
    return connectome


def weights(npu: NPU, *fired: list[int]) -> list[int]:
    for neurons in fired:
        npu.force_fire(neurons)
        npu.process_burst()
    return [int(w) for w in npu.synapse_array.weight]


@learners
def test_rules_come_and_go_while_it_runs(backend_factory: Factory) -> None:
    with NPU.from_connectome(pair_of_areas(), backend=backend_factory) as npu:
        assert weights(npu, [0, 2], [0, 2]) == [100] * 4
        window = npu.register_plasticity(WINDOW)
        assert weights(npu, []) == [100] * 4  # the bursts before do not count
        assert weights(npu, [0, 2]) == [99, 99, 99, 100]
        assert weights(npu, [0, 2]) == [104, 98, 98, 100]
        pair = npu.register_plasticity(PAIR)
        assert dict(npu.plasticity) == {window: WINDOW, pair: PAIR} and list(npu.plasticity) == [window, pair]
        assert [rule.name for rule in npu.plasticity.values()] == ["window", "pair"]
        assert npu.plasticity[window].parameters == {"source_area": 0, "target_area": 1, "window": 2, "plus": 5, "minus": 1}
        assert npu.unregister_plasticity(window) == WINDOW
        assert weights(npu, [3]) == [104, 98, 98, 100]  # for the pair rule, too, source 0 has not fired yet
        assert weights(npu, [0], [2, 3]) == [106, 99, 98, 100]
        npu.unregister_plasticity(pair)
        assert weights(npu, [0], [2, 3]) == [106, 99, 98, 100]
        assert npu.register_plasticity(PAIR) not in (window, pair)


@learners
def test_a_network_carries_its_rules(backend_factory: Factory) -> None:
    with NPU.from_connectome(pair_of_areas(PAIR, WINDOW), backend=backend_factory) as npu:
        assert list(npu.plasticity.values()) == [PAIR, WINDOW]
        learnt = weights(npu, [0, 2], [0, 2], [3])
        assert learnt == [105, 100, 98, 100]
        residues = npu.synapse_residues()
        up, down = (closed_form(PAIR, lag, 100, 255) for lag in (1, -1))
        assert residues.dtype == np.int16 and residues.tolist() == [up + down - 2**16, up - 2 * 2**16, 0, 0]
        npu.unregister_plasticity(0)
        npu.register_plasticity(replace(WINDOW, minus=0))
        there = npu.to_connectome()
        assert there.plasticity == (WINDOW, replace(WINDOW, minus=0))
        npu.reset()
        assert weights(npu) == learnt and len(npu.plasticity) == 2
        npu.reset(network=True)
        assert weights(npu) == [100] * 4 and list(npu.plasticity.values()) == [PAIR, WINDOW]


@learners
def test_many_bursts_in_one_run_learn_as_one_by_one(backend_factory: Factory) -> None:
    """A lively network: fixed out-degree, power neurons, forced spikes, both rules at once."""
    network = fixed_out_degree(
        300, 12, seed=4, threshold=30, weight=(0, 40), psp=(1, 3), inhibitory_fraction=0.2, areas={0: Area(power=True)}
    )
    network.write("cortical_area", np.arange(300), np.arange(300) % 3)
    network.set_plasticity([PairRule(0, 1, 3.3, 2.2, 8, 8, "all"), WindowRule(1, 2, 2, 3, 1), PairRule(1, 2, 1, 1, 20, 9, w_max=99)])
    network.set_settings(replace(network.settings, power_amount=11.0))
    one, many = NPU.from_connectome(network, backend=ReferencePlatform), NPU.from_connectome(network, backend=backend_factory)
    rng = np.random.default_rng(0)
    forced = rng.integers(0, 300, 200), rng.integers(1, 61, 200)
    many.schedule_force(forced[1], forced[0])
    counts = []
    for burst in range(1, 61):
        one.force_fire(forced[0][forced[1] == burst])
        counts.append(one.process_burst().neuron_count)
    assert many.run(60).fired_counts.tolist() == counts and sum(counts) > 3000
    assert_bits(many.synapse_array.weight, one.synapse_array.weight, "weight")
    assert_bits(many.synapse_residues(), one.synapse_residues(), "residue")
    changed = one.synapse_array.weight != NPU.from_connectome(network, backend=ReferencePlatform).synapse_array.weight
    assert np.count_nonzero(changed) > 300
    many.close()


def test_a_rule_that_does_not_fit_changes_nothing() -> None:
    npu = NPU.from_connectome(pair_of_areas(), backend=ReferencePlatform)
    for rule, message in (
        ("pair", "'pair' is not a rule"),
        (replace(PAIR, w_max=256), "w_max: 256 is more than 255"),
        (replace(PAIR, w_min=255), "w_min 255 is not below 255"),
    ):
        with pytest.raises(NetworkError, match=message):
            npu.register_plasticity(rule)  # type: ignore[arg-type]
        with pytest.raises(NetworkError):
            pair_of_areas(rule)  # type: ignore[arg-type]
    assert not npu.plasticity
    handle = npu.register_plasticity(PAIR)
    for unknown in (handle + 1, "pair", [0]):
        with pytest.raises(NetworkError, match="has the handle .*; there are: 0"):
            npu.unregister_plasticity(unknown)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        npu.plasticity[handle] = WINDOW  # type: ignore[index]
    frozen = pair_of_areas()
    frozen.freeze()
    with pytest.raises(NetworkError, match="frozen"):
        frozen.set_plasticity([PAIR])


@pytest.mark.parametrize(
    ("rule", "changes", "message"),
    [
        (WINDOW, {"source_area": -1}, "area -1 is not an integer"),
        (WINDOW, {"target_area": 2**32}, "area 4294967296 is not an integer"),
        (WINDOW, {"window": 0}, r"window: 0 is outside 1\.\.65535"),
        (WINDOW, {"window": 2.0}, r"window: 2\.0 is not an integer"),
        (WINDOW, {"plus": -1}, r"plus: -1 is outside 0\.\.65535"),
        (WINDOW, {"minus": True}, "minus: True is not an integer"),
        (PAIR, {"source_area": "0"}, "area '0' is not an integer"),
        (PAIR, {"a_plus": -0.1}, r"a_plus: -0\.1 is outside 0\.\.65535"),
        (PAIR, {"a_minus": 2.0**-18}, r"a_minus: .* is above 0 and below the resolution of a weight, 2\*\*-16"),
        (PAIR, {"a_minus": float("nan")}, "a_minus: nan is outside"),
        (PAIR, {"a_plus": "1"}, "a_plus: '1' is not a real number"),
        (PAIR, {"tau_plus": 0}, r"tau_plus: 0 is outside 0\.1\.\.2000"),
        (PAIR, {"tau_minus": 2001}, r"tau_minus: 2001 is outside 0\.1\.\.2000"),
        (PAIR, {"pairing": "some"}, "pairing: 'some' is not one of"),
        (PAIR, {"bounds": "none"}, "bounds: 'none' is not one of"),
        (PAIR, {"w_min": 65536}, r"w_min: 65536 is outside 0\.\.65535"),
        (PAIR, {"w_min": 9, "w_max": 9}, "w_min 9 is not below w_max 9"),
    ],
)
def test_parameters_that_are_not_allowed(rule: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        replace(rule, **changes)


def test_a_rule_is_a_value() -> None:
    assert replace(PAIR, a_plus=np.float32(2)) == PAIR and hash(PAIR) == hash(replace(PAIR))
    assert type(replace(WINDOW, window=np.uint8(2)).window) is int
    with pytest.raises(FrozenInstanceError):
        PAIR.a_plus = 3.0  # type: ignore[misc]


# -- rules written in Python ---------------------------------------------------------------------------------------------
class Hebb(CustomRule):
    """Plus 7 where both ends fired in the burst, for each synapse at most twice."""

    name = "hebb"

    def __init__(self, source_area: int, target_area: int) -> None:
        super().__init__(source_area, target_area)
        self.times: Counter[int] = Counter()

    def apply(
        self, burst: int, synapses: NDArray[np.intp], weight: NDArray[Any], source_fired: NDArray[np.bool_], target_fired: NDArray[np.bool_]
    ) -> NDArray[Any]:
        new = weight.astype(int)
        for x in np.flatnonzero(source_fired & target_fired):
            self.times[int(synapses[x])] += 1
            new[x] += 7 if self.times[int(synapses[x])] <= 2 else 0
        return new


def test_a_rule_written_in_python_runs_on_the_reference() -> None:
    npu = NPU.from_connectome(pair_of_areas(), backend=ReferencePlatform)
    handle = npu.register_plasticity(Hebb(0, 1))
    assert (npu.plasticity[handle].name, npu.plasticity[handle].parameters) == ("hebb", {"source_area": 0, "target_area": 1})
    npu.register_plasticity(WindowRule(0, 1, 1, 0, 1))
    assert weights(npu, [0, 2], [0, 2], [0, 2]) == [114, 97, 97, 100]
    assert npu.to_connectome().plasticity == (WindowRule(0, 1, 1, 0, 1),)
    with pytest.raises(NetworkError, match="no WindowRule, PairRule or FeagiRule"):
        pair_of_areas(Hebb(0, 1))


def test_other_backends_refuse_a_rule_written_in_python(backend_factory: Factory) -> None:
    with NPU.from_connectome(pair_of_areas(), backend=backend_factory) as npu:
        if npu.backend == "reference":
            npu.register_plasticity(Hebb(0, 1))
            return
        with pytest.raises(NetworkError, match="rule \"hebb\".*backend='reference'"):
            npu.register_plasticity(Hebb(0, 1))
        assert not npu.plasticity
        npu.process_burst()


def test_the_plastic_plans_learn() -> None:
    """A comparison of networks that do not learn would prove nothing: most plans of the default profile change weights."""
    changed = 0

    @settings(settings.get_profile("default"))
    @given(plan=plastic_plans())
    def look(plan: Plan) -> None:
        nonlocal changed
        maker = Maker(plan)
        backend = ReferencePlatform().load(maker.connectome, maker.shape(4))
        moved = 0
        for name, arguments in maker.make_script():
            before = backend._network.synapses.weight.copy() if name == "burst" else None
            perform(backend, name, arguments)
            if before is not None:
                moved += int(np.count_nonzero(backend._network.synapses.weight != before))
        changed += moved >= 20

    look()
    assert changed >= 12
