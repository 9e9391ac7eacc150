"""A synapse with delay d delivers in burst t iff its source fired in t - d, with what it is when t begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BACKENDS, EMULATED, BackendFactory, cpu_backend, emulated_backend, reference_backend
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import DELAYS, ONE_DELAY, PLASTIC, SMALL_SIZES, Maker, Plan, agree, delayed_plans, late, late_plans, perform
from numpy.typing import NDArray
from relay import Relay
from scalar_model import ScalarModel

from gpu_npu import (
    NPU,
    Area,
    Connectome,
    FeagiRule,
    FileFormatError,
    NetworkError,
    PairRule,
    Snapshot,
    SynapseBatch,
    SynapseSource,
    WindowRule,
)
from gpu_npu.arrays import is_spread
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.connectome.generators import RandomSynapses, fixed_in_degree, fixed_out_degree, fixed_probability
from gpu_npu.io import load, save, stream

KINDS: dict[str, BackendFactory] = {
    "reference": reference_backend,
    "cpu": cpu_backend,
    **{name: lambda options=options: emulated_backend(*options) for name, options in EMULATED.items()},
}
small_plans = delayed_plans(sizes=SMALL_SIZES, hubs=(0, 0, 40))
BRANCHES = (
    "deleted under way", "delay longer", "delay shorter", "late", "late and divided", "late and driven",
    "late, of a source that fired since", "target absent",
)  # fmt: skip


def test_random_networks_agree_with_the_scalar_model() -> None:
    """Edits of weights and delays while spikes are under way, deletions, compaction, growth, resets, rules."""
    seen: Counter[str] = Counter()

    @settings(max_examples=max(60, settings().max_examples // 3))
    @given(small_plans)
    def look(plan: Plan) -> None:
        model = ScalarModel()
        agree(plan, ReferencePlatform(), model)
        seen.update(model.seen)

    look()
    weak = {name: seen[name] for name in BRANCHES if seen[name] < 10}
    assert not weak, f"branches hardly taken: {weak}"


@settings(max_examples=15)
@given(plan=small_plans)
def test_runs_that_are_cut_anywhere_go_on(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "delayed.ckpt"
    agree(plan, Relay([reference_backend, reference_backend], path, plan.seed, 0.1), ReferencePlatform())


others = pytest.mark.parametrize("backend_factory", [name for name in BACKENDS if name != "reference"], indirect=True)


@others
@settings(max_examples=max(10, settings().max_examples // 6))
@given(plan=late_plans())
def test_kernels_agree_with_the_reference(backend_factory: BackendFactory, plan: Plan) -> None:
    agree(plan, backend_factory(), ReferencePlatform())


def test_plans_of_kernels_are_active() -> None:
    """Spikes cross, with rows that are cut into tasks and with rules, or the comparison would prove nothing."""
    met: Counter[str] = Counter()
    for seed in range(72):
        plan = late(Plan(seed, 100, 5, 4, (0, 40, 10_000)[seed // 4 % 3], 14, frozenset(["inhibitory"])))
        maker = Maker(plan)
        backend = ReferencePlatform().load(maker.connectome, maker.shape(plan.bursts))
        outputs = [perform(backend, name, arguments) for name, arguments in maker.make_script()]
        if sum(output.counters[2] for output in outputs if hasattr(output, "fired")) >= 10:
            delays = "one" if ONE_DELAY in plan.switches else "several"
            met.update({f"{delays} {what}" for what in (maker.longest, "rules" if PLASTIC in plan.switches else "none", f"hub {plan.hub}")})
    names = [f"{delays} {what}" for delays in ("one", "several") for what in (2, 3, 5, 9, "rules", "none", "hub 10000")]
    assert not [name for name in names if met[name] < 2], met


@settings(max_examples=8)
@given(plan=late_plans(), order=st.permutations(list(KINDS)))
def test_runs_that_go_on_elsewhere(plan: Plan, order: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cut anywhere, with spikes under way, and written alike by all backends."""
    path = tmp_path_factory.getbasetemp() / "elsewhere.ckpt"
    agree(plan, Relay([KINDS[name] for name in order], path, plan.seed, 0.05), ReferencePlatform())


def pulses(delay: int) -> Connectome:
    """A ring in which each neuron reaches its three neighbours, and a hub that reaches all."""
    n = 70
    network = Connectome(n, 4 * n + 20, delay_dtype=np.uint16)
    network.add_neurons(n, threshold=2.0, leak_coefficient=0.5, refractory_period=1)
    source = np.repeat(np.arange(n), 3)
    network.add_synapses(source, (source + np.tile([1, 2, 5], n)) % n, 1 + source % 3, 1, source % 7 == 0, delay)
    network.add_synapses(3, np.arange(n), 1, 1, delay=delay)
    return network


@pytest.mark.parametrize("delay", [1, 2, 17, 31, 32, 33, 255, 256])
def test_one_delay_on_every_backend(backend_factory: BackendFactory, delay: int, tmp_path: Path) -> None:
    """Edits with spikes under way, growth, many bursts in a launch, a cut in the middle: the same digest as on the reference."""
    bursts, digests = delay + 12, []
    for factory in (reference_backend, backend_factory):
        npu = NPU.from_connectome(pulses(delay), backend=factory)
        npu.schedule_force(np.repeat(np.arange(1, bursts, 3), 4), np.arange(4 * len(range(1, bursts, 3))) * 11 % 70)
        found = [npu.run(5, digest=True).digest]
        npu.update_weights([3, 4], [8, 5], [200, 7])
        npu.remove_synapses([5, 6, 3], [6, 7, 40])
        npu.delete_neurons([9, 10])
        npu.add_synapses(np.arange(20), 60, 2, 1, delay=delay)
        npu.reserve(300, 1000)
        assert npu.update_delay(3, 8, delay) and not npu.update_delay(5, 6, delay)
        found.append(npu.run(bursts, digest=True).digest)
        npu.rebuild_indexes()
        npu.snapshot().write(tmp_path / "run")
        found.append((tmp_path / "run").read_bytes().hex()[-64:])
        with NPU.from_snapshot(Snapshot.read(tmp_path / "run"), backend=factory) as again:
            found.append(again.run(bursts + 5, digest=True).digest)
            assert found[-1] == npu.run(bursts + 5, digest=True).digest
        assert npu.outgoing_synapses([3]).delay.tolist() == [delay] * len(npu.outgoing_synapses([3]))
        digests.append(found)
        npu.close()
    assert digests[0] == digests[1]


# -- by hand -----------------------------------------------------------------------------------------------------------
def chain(delays: list[int], backend: BackendFactory = reference_backend, **options: Any) -> NPU:
    """0 -> 1 -> 2 ..., each spike makes the next."""
    network = Connectome(len(delays) + 1, 20, delay_dtype=np.uint16, **options)
    network.add_neurons(len(delays) + 1)
    network.add_synapses(np.arange(len(delays)), np.arange(len(delays)) + 1, 5, 1, delay=delays)
    return NPU.from_connectome(network, backend=backend)


def spikes(npu: NPU, bursts: int) -> list[tuple[int, int]]:
    """(burst, neuron)"""
    return [(npu.burst_count, neuron) for _ in range(bursts) for neuron in npu.process_burst().fired_neurons.tolist()]


@pytest.mark.parametrize("delay", [1, 2, 17, 31, 32, 33, 255, 256, 4095])
def test_a_spike_arrives_after_its_delay(delay: int, backend_factory: BackendFactory, tmp_path: Path) -> None:
    """Also where the run is written to a file and read again in between."""
    npu = chain([delay, 1], backend_factory)
    npu.force_fire([0])
    assert spikes(npu, 1) == [(1, 0)] and spikes(npu, delay // 2) == ([(2, 1)] if delay == 1 else [])[: delay // 2]
    npu.snapshot().write(tmp_path / "run")
    npu.close()
    again = NPU.from_snapshot(Snapshot.read(tmp_path / "run"), backend=backend_factory)
    expected = [(1 + delay, 1), (2 + delay, 2)][int(delay == 1 and delay // 2 > 0) :]
    assert spikes(again, delay + 2 - delay // 2) == expected


DISTANCES = (1, 2, 17, 31, 32, 33, 255, 256, 4095)
"""Around the words of the kernels, and of the smaller dtype."""


def decoder(delays: Sequence[int]) -> Connectome:
    """Neuron 0 is a source that reaches `bits` readers once for each delay: reader b where bit b of the delay's number, from 1 on,
    is set. What fires in a burst is the binary code of the delay that is due."""
    bits = len(delays).bit_length()
    pairs = [(1 + b, delay) for i, delay in enumerate(delays, 1) for b in range(bits) if i >> b & 1]
    target, delay = np.array(pairs).T
    network = Connectome(1 + bits, len(pairs), delay_dtype=np.uint16 if max(delays) > 255 else np.uint8)
    network.add_neurons(1 + bits, threshold=1.0)
    network.add_synapses(0, target, 1, 1, delay=delay)
    return network


@pytest.mark.parametrize("delays", [DISTANCES, DISTANCES[::-1], DISTANCES[:-2], tuple(range(250, 290)), tuple(range(40, 0, -1))])
def test_time_spells_the_index(delays: tuple[int, ...], backend_factory: BackendFactory) -> None:
    """Whatever the order of age, as loaded and compacted."""
    with NPU.from_connectome(decoder(delays), backend=backend_factory, fire_ledger_window=max(delays) + 1) as npu:
        for compacts in (False, True)[: 1 + (max(delays) < 300)]:
            if compacts:
                npu.rebuild_indexes()
                npu.reset()
            npu.force_fire([0])
            npu.run(1 + max(delays))
            recent = npu.get_recent_history(max(delays) + 1)
            history = {burst: sum(1 << neuron - 1 for neuron in fired if neuron) for burst, fired in recent}
            expected = {delay: number for number, delay in enumerate(delays, 1)}
            assert {burst - 1: code for burst, code in history.items() if code} == expected


def test_a_spike_meets_its_synapse_as_it_is_when_it_arrives(backend_factory: BackendFactory) -> None:
    """Weight, psp, k, validity and delay are those of the burst of arrival."""
    npu = chain([4, 4, 4], backend_factory)
    npu.set_parameter("threshold", [1, 2, 3], 7.0)  # 5 does not reach it
    npu.force_fire([0, 1, 2])
    npu.run(2)
    assert npu.update_weight(0, 1, 9) and npu.update_delay(1, 2, 3) and npu.update_weight(1, 2, 8) and npu.remove_synapse(2, 3)
    assert not npu.update_delay(3, 0, 2)
    npu.add_synapse(2, 0, 9, 1, delay=3)  # of a spike from before it was there
    assert spikes(npu, 1) == [] and spikes(npu, 1) == [(4, 0), (4, 2)] and spikes(npu, 1) == [(5, 1)]


def test_a_spike_meets_a_shorter_delay_too_late(backend_factory: BackendFactory) -> None:
    npu = chain([4], backend_factory)
    npu.force_fire([0])
    npu.run(3)
    npu.update_delay(0, 1, 2)
    assert spikes(npu, 6) == []


def test_deletion_of_the_ends_stops_a_spike_under_way(backend_factory: BackendFactory) -> None:
    for gone in (0, 1):
        npu = chain([5], backend_factory)
        npu.force_fire([0])
        npu.run(2)
        npu.delete_neuron(gone)
        assert spikes(npu, 8) == []


def test_reset_forgets_spikes_under_way(backend_factory: BackendFactory) -> None:
    npu = chain([5], backend_factory)
    npu.force_fire([0])
    npu.run(3)
    npu.reset()
    assert spikes(npu, 8) == []


def test_an_mp_driven_spike_keeps_its_potential(backend_factory: BackendFactory) -> None:
    npu = chain([3], backend_factory, areas={0: Area(mp_driven_psp=True)})
    npu.set_parameter("threshold", [1], 200.0)
    npu.inject([0], 40.0)
    npu.run(1)
    npu.inject([0], 30.0)
    assert spikes(npu, 2) == [(2, 0)]
    assert spikes(npu, 1) == [(4, 1)] and npu.fire_queue.potentials.tolist() == [200.0] and spikes(npu, 1) == []


def test_how_long_spikes_are_kept(backend_factory: BackendFactory) -> None:
    """As long as some delay is; more can be asked for while nothing is lost."""
    npu = chain([2, 3], backend_factory)
    npu.force_fire([0])
    npu.run(3)
    npu.add_synapse(0, 2, 5, 1, delay=5)  # burst 1 is still known
    assert spikes(npu, 3) == [(6, 2)]
    for edit in (lambda: npu.add_synapse(0, 1, 5, 1, delay=6), lambda: npu.update_delay(0, 1, 6), lambda: npu.reserve(delay=6)):
        with pytest.raises(NetworkError, match=r"delay: 6, where spikes are kept for 5 bursts.* lost after burst 6; reserve\(delay=6\)"):
            edit()
    assert npu.snapshot().longest_delay == 5 and npu.get_synapse_count() == 3
    npu.reset()
    npu.reserve(delay=300)
    npu.force_fire([0])
    npu.run(250)
    npu.add_synapse(0, 2, 5, 1, delay=300)
    assert spikes(npu, 60)[-1] == (301, 2)


# -- what has delays, and what has none --------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [fixed_out_degree, fixed_in_degree, lambda n, k, **values: fixed_probability(n, k / n, **values)])
def test_generators_draw_delays(make: Any) -> None:
    one, many = make(60, 9, seed=1, delay=7), make(60, 9, seed=1, delay=(2, 300))
    assert one.synapses.delay_range == (7, 7) and is_spread(one.synapses.delay) and one.delay_dtype is np.uint8
    assert many.delay_dtype is np.uint16 and 2 <= many.synapses.delay.min() < 30 < 270 < many.synapses.delay.max() <= 300
    for name in ("source", "target", "weight"):
        np.testing.assert_array_equal(getattr(one.synapses, name), getattr(make(60, 9, seed=1).synapses, name))
    with pytest.raises(NetworkError, match=r"delay: 0 is not a value or a \(lowest, highest\) in 1..65535"):
        make(60, 9, seed=1, delay=0)


def test_one_delay_takes_no_memory() -> None:
    network = Connectome(5, 10)
    network.add_neurons(5)
    network.add_synapses([0, 1, 2], 3, 1, 1, delay=18)
    network.add_synapse(0, 1, 1, 1, delay=18)
    network.set_delays(0, 1, 18)
    assert network.synapses.has_one_delay and network.copy().synapses.has_one_delay and network.synapses.slot_bytes == 12
    network.set_delays([0, 0], [1, 1], [18, 4])
    assert not network.synapses.has_one_delay and network.synapses.delay.tolist() == [18, 18, 18, 4] and network.synapses.slot_bytes == 13
    network.remove_synapses(0, 1)
    assert network.synapses.delay_range == (18, 18)
    network.compact()
    network.reserve(9, 30)
    assert network.synapses.delay.tolist() == [18] * 3


@pytest.mark.parametrize("delay", [1, 18, 300, [1, 2, 3, 300]])
def test_files_keep_delays(delay: Any, tmp_path: Path) -> None:
    network = Connectome(5, 10, delay_dtype=np.uint16)
    network.add_neurons(5)
    network.add_synapses([0, 1, 2, 3], 4, 1, 1, delay=delay)
    network.remove_synapses(1, 4)
    save(network, tmp_path / "network.npz")
    again, (without, source) = load(tmp_path / "network.npz"), stream(tmp_path / "network.npz")
    expected = network.synapses.batch().delay.tolist()
    assert again.synapses.batch().delay.tolist() == SynapseBatch.concatenate(source.within(5)).delay.tolist() == expected
    assert again.synapses.delay_range == source.delay_range == (min(expected), max(expected))
    assert again.delay_dtype is source.delay_dtype is without.delay_dtype is np.uint16
    assert again.synapses.has_one_delay == network.synapses.has_one_delay == (not isinstance(delay, list))
    with np.load(tmp_path / "network.npz") as file:
        arrays = dict(file)
    assert len(arrays["synapse_delay"]) == (4 if isinstance(delay, list) else 1)

    # Files of version 2 have none.
    del arrays["synapse_delay"]
    np.savez(tmp_path / "old.npz", **arrays | {"version": np.array(2)})
    assert load(tmp_path / "old.npz").synapses.delay_range == stream(tmp_path / "old.npz")[1].delay_range == (1, 1)
    assert load(tmp_path / "old.npz").delay_dtype is np.uint8


@pytest.mark.parametrize(
    ("delay", "message"),
    [
        (np.zeros(1, np.uint8), "delay.* 0"),
        (np.array([1, 0, 1], np.uint8), "delay.* 0"),
        (np.ones(2, np.uint8), r"array 'synapse_delay' has shape \(2,\), not \(3,\) or \(1,\)"),
        (np.ones(3, np.int8), "delay_dtype: dtype.'int8'. is none of uint8"),
        (np.ones(3, np.float32), "delay_dtype: dtype.'float32'. is neither uint8 nor uint16"),
        (np.ones((3, 1), np.uint8), r"array 'synapse_delay' has shape \(3, 1\), not one dimension"),
    ],
)
@pytest.mark.parametrize("read", [load, stream])
def test_delays_of_a_file_that_are_none(delay: NDArray[Any], message: str, read: Any, tmp_path: Path) -> None:
    save(fixed_out_degree(3, 1, seed=1), tmp_path / "network.npz")
    with np.load(tmp_path / "network.npz") as file:
        np.savez(tmp_path / "bad.npz", **dict(file) | {"synapse_delay": delay})
    with pytest.raises(FileFormatError, match=message):
        read(tmp_path / "bad.npz")


class Late(SynapseSource):
    """Two synapses with a delay that the source does not tell of."""

    total = 2
    weight_dtype = psp_dtype = np.uint8

    def __iter__(self) -> Iterator[SynapseBatch]:
        ends, ones = np.zeros(2, np.uint32), np.ones(2, np.uint8)
        yield SynapseBatch(ends, ends, ones, ones, np.zeros(2, np.bool_), np.array([1, 3], np.uint8))


def test_a_source_keeps_its_word_about_delays() -> None:
    network = Connectome(3, 3)
    with pytest.raises(NetworkError, match="synapse 1: a delay of 3 from a source that says 1 to 1; correct its delay_range"):
        NPU.from_connectome(network, synapses=Late(), backend="reference")


def test_streamed_synapses_have_delays() -> None:
    network = Connectome(50, 0)
    network.add_neurons(50, threshold=3.0)
    source = RandomSynapses(50, 10, seed=3, weight=(1, 5), delay=(3, 9))
    whole = Connectome(50, 500)
    whole.add_neurons(50, threshold=3.0)
    whole.add_synapses(*SynapseBatch.concatenate(source).columns())
    digests = []
    for npu in (NPU.from_connectome(network, synapses=source), NPU.from_connectome(whole), NPU.from_connectome(whole, backend="reference")):
        npu.schedule_force(np.arange(1, 40, 4), np.arange(10))
        digests.append(npu.run(60, digest=True).digest)
        assert npu.snapshot().longest_delay == 9 and npu.burst_count == 60
    assert digests[0] == digests[1] == digests[2]


def test_auto_takes_kernels_unless_rules_owe() -> None:
    for delay in (18, (2, 18)):
        with NPU.from_connectome(fixed_out_degree(20, 3, seed=1, delay=delay)) as npu:
            assert npu.backend != "reference"
    network = fixed_out_degree(20, 3, seed=1, delay=18)
    network.set_plasticity([WindowRule(0, 0, 1, 1, 1)])
    with NPU.from_connectome(network) as npu:
        assert npu.backend == "reference" and "no WindowRule where a delay is above 1, and here the longest is 18" in npu.backend_reason


@others
def test_kernels_refuse_rules_that_owe(backend_factory: BackendFactory) -> None:
    with NPU.from_connectome(fixed_out_degree(20, 3, seed=1, delay=2), backend=backend_factory) as npu:
        for rule in (WindowRule(0, 0, 1, 1, 1), FeagiRule(0, 0, 1, 1.0, 1.0)):
            with pytest.raises(NetworkError, match=rf"no {type(rule).__name__} where a delay is above 1.*the backend reference runs it"):
                npu.register_plasticity(rule)
        assert npu.register_plasticity(PairRule(0, 0, 1.0, 1.0, 2.0, 2.0)) == 0


@others
def test_rules_that_owe_keep_delays_out(backend_factory: BackendFactory) -> None:
    """What the kernels cannot do names the reference, before anything changes."""
    prompt = fixed_out_degree(20, 3, seed=1)
    prompt.reserve(synapses=80)
    with NPU.from_connectome(prompt, backend=backend_factory) as npu:
        rule = npu.register_plasticity(WindowRule(0, 0, 1, 1, 1))
        pair = int(prompt.synapses.source[0]), int(prompt.synapses.target[0])
        edits = (lambda: npu.add_synapse(0, 1, 1, 1, delay=2), lambda: npu.update_delay(*pair, 2), lambda: npu.reserve(delay=2))
        for edit in edits:
            with pytest.raises(NetworkError, match="delay: 2, where the backend .* has only 1 in this network; .* reference"):
                edit()
        assert npu.get_synapse_count() == 60 and npu.update_delay(*pair, 1) and not npu.update_delays([0], [0], 1).all()
        assert npu.snapshot().longest_delay == 1
        npu.unregister_plasticity(rule)
        npu.add_synapse(0, 1, 1, 1, delay=2)
        assert npu.update_delay(*pair, 2) and npu.snapshot().longest_delay == 2


def test_psps_fall_after_the_burst_that_follows_a_spike_whatever_the_delay() -> None:
    network = Connectome(2, 2, psp_dtype=np.float32, areas={0: Area(degeneration=0.5)})
    network.add_neurons(2, threshold=100.0)
    network.add_synapses(0, 1, 1, 3.0, delay=3)
    with NPU.from_connectome(network, backend="reference") as npu:
        delivered = []
        for burst in range(1, 7):
            if burst <= 2:
                npu.force_fire([0])
            npu.process_burst()
            delivered += npu.fire_candidate_list.potentials.tolist()
            assert npu.synapse_array.psp.tolist() == [3 - 0.5 * min(burst, 2)]  # with the fall that is to come
        assert delivered == [2.0, 2.0]  # both spikes have fallen when the first arrives


def test_plans_have_delays() -> None:
    """Else the comparisons above would prove nothing."""
    plan = Plan(3, 20, 0, 10, 0, 8, frozenset([DELAYS]))
    assert Maker(plan).connectome.synapses.delay_range == (1, 9)
