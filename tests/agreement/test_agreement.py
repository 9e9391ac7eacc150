"""Random networks, random scripts: every backend gives what the reference gives, to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from conftest import BACKENDS
from hypothesis import given, settings
from networks import SWITCHES, Maker, Plan, agree, assert_equal, perform, plans
from scalar_model import draw

from gpu_npu import NPU, Rules
from gpu_npu.backends.base import Platform
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Area, Connectome, Settings

others = pytest.mark.parametrize("backend_factory", [name for name in BACKENDS if name != "reference"], indirect=True)


def run_beside_reference(plan: Plan, factory: Callable[[], Platform]) -> None:
    agree(plan, factory(), ReferencePlatform())


@others
@given(plan=plans())
def test_random_networks(backend_factory: Callable[[], Platform], plan: Plan) -> None:
    run_beside_reference(plan, backend_factory)


@others
@pytest.mark.parametrize(
    "rules",
    [Rules(), Rules(potential_floor=-50.0, potential_ceiling=40.0), Rules(rectify_input=True)],
    ids=("free", "bounded", "rectified"),
)
@pytest.mark.parametrize("scale", [1.0, 1e-44, 3e-43, 1e-38, 1e33, 3e38, -3e38])
def test_many_neighbours_integrate_and_leak(backend_factory: Callable[[], Platform], scale: float, rules: Rules) -> None:
    """Nearly every neuron is a candidate and few fire, at the limits of what a float can hold."""
    rng, count = np.random.default_rng(5), 300
    extremes = np.array([0.0, 1e-45, -1e-38, 1e-38, 3.4e38, -3.4e38, 39.0, -49.0, 1.0], np.float32)
    connectome = Connectome(count, 20 * count, settings=Settings(rules=rules, contribution_scale=scale))
    connectome.add_neurons(
        count,
        threshold=rng.choice([3.4e38, 1e30, 60.0], count),
        membrane_potential=rng.choice(extremes, count),
        leak_coefficient=rng.choice([0.0, 1.0, 0.5, 1e-7, 0.99999994], count),
        mp_charge_accumulation=rng.random(count) < 0.8,
        refractory_countdown=np.where(rng.random(count) < 0.1, 3, 0),
        consecutive_fire_limit=rng.choice([0, 0, 0, 2, 65535], count),
    )
    ends = rng.integers(0, count, (2, 20 * count))
    connectome.add_synapses(*ends, *rng.integers(0, 256, (2, 20 * count)), rng.random(20 * count) < 0.4)
    with NPU.from_connectome(connectome, backend=backend_factory) as npu, NPU.from_connectome(connectome, backend="reference") as oracle:
        for burst in range(8):
            fired = rng.integers(0, count, 40 if burst % 2 else 90)
            for one in (npu, oracle):
                one.force_fire(np.unique(fired))
            results = [one.process_burst() for one in (npu, oracle)]
            assert_equal(*(result.fired_neurons for result in results), f"fired in burst {burst + 1}")
            assert results[0].synaptic_injections == results[1].synaptic_injections > 0 or burst == 0
            lists = [one.fire_candidate_list for one in (npu, oracle)]
            assert_equal(*(found.neurons for found in lists), f"candidates of burst {burst + 1}")
            assert_equal(*(found.potentials for found in lists), f"what went into them in burst {burst + 1}")
            assert_equal(*(one.neuron_array.membrane_potential for one in (npu, oracle)), f"potentials after burst {burst + 1}")


@pytest.mark.long
@others
def test_ten_thousand_random_networks(backend_factory: Callable[[], Platform], request: pytest.FixtureRequest) -> None:
    """New ones at every run: 10,000 on the CPU, and 2,500 on each emulated device and on a GPU."""
    count = 10_000 if "[cpu]" in request.node.name else 2_500

    @settings(max_examples=count, derandomize=False, print_blob=True)
    @given(plan=plans())
    def look(plan: Plan) -> None:
        run_beside_reference(plan, backend_factory)

    look()


def test_the_plans_of_the_default_profile_are_active() -> None:
    """A comparison of silent networks would prove nothing: each switch, each large size is met by spikes."""
    met: Counter[str] = Counter()

    @settings(settings.get_profile("default"), max_examples=80)
    @given(plan=plans())
    def look(plan: Plan) -> None:
        maker = Maker(plan)
        backend = ReferencePlatform().load(maker.connectome, maker.shape(plan.bursts))
        outputs = [perform(backend, name, arguments) for name, arguments in maker.make_script()]
        spikes = sum(len(output.fired) for output in outputs if hasattr(output, "fired"))
        carried = sum(output.counters[2] for output in outputs if hasattr(output, "fired"))
        if spikes >= 10 and carried >= 10:
            met.update(plan.switches)
            met.update(["big"] if plan.neurons >= 255 else [])
            met.update(["hub"] if plan.hub == 10_000 else [])

    look()
    weak = {name: met[name] for name in (*SWITCHES, "big", "hub") if met[name] < 3}
    assert not weak, f"too few active networks with these: {weak}"


def test_shares_of_a_divided_psp_are_rounded_exactly(backend_factory: Callable[[], Platform]) -> None:
    """k equal shares of m, less m itself, leave k * floor((m * 2^F + floor(k / 2)) / k) - m * 2^F: few units of 2^-F.

    Float32 hides the last bits of a share in any other sum, so only such a cancellation shows how it was rounded.
    """
    shares = [(m, k) for k in (*range(1, 20), 31, 32, 33, 100, 255, 256, 257, 1000, 9999) for m in (1, 2, 3, 7, 251, 65025)]
    count = len(shares)
    weight = np.array([min(m, 255) for m, _ in shares], np.uint8)
    psp = np.array([m // min(m, 255) for m, _ in shares], np.uint8)
    divided, whole, target = np.arange(count), np.arange(count) + count, np.arange(count) + 2 * count
    k = np.array([k for _, k in shares])
    connectome = Connectome(3 * count, int(k.sum()) + count, areas={1: Area(psp_uniform=False)})
    connectome.add_neurons(3 * count, cortical_area=np.repeat([1, 0, 0], count), threshold=np.repeat([1.0, 1.0, 1e9], count))
    connectome.add_synapses(divided.repeat(k), target.repeat(k), weight.repeat(k), psp.repeat(k))
    connectome.add_synapses(whole, target, weight, psp, True)
    backend = backend_factory().load(connectome, NetworkShape.of(connectome, ledger_window=2))
    backend.inject(np.arange(2 * count, dtype=np.uint32), np.ones(2 * count, np.float32))
    assert len(backend.burst(1).fired) == 2 * count
    backend.burst(2)
    ids, potentials = backend.candidates()
    backend.close()
    left = [k * ((m * 2**32 + k // 2) // k) - m * 2**32 for m, k in shares]
    assert min(left) < 0 < max(left)
    np.testing.assert_array_equal(ids, target)
    np.testing.assert_array_equal(potentials, np.array(left) / 2.0**32)


def test_excitability_is_compared_exactly(backend_factory: Callable[[], Platform]) -> None:
    """A neuron whose excitability is its draw does not fire; with the next float32 above it does, below it does not."""
    burst, seed, third = 1, 12345, 700
    draws = np.array([float(draw(j, burst, seed)) for j in range(3 * third)], np.float32)
    excitability = draws.copy()
    excitability[third : 2 * third] = np.nextafter(draws[third : 2 * third], np.float32(2))
    excitability[2 * third :] = np.nextafter(draws[2 * third :], np.float32(0))
    usual = excitability < np.float32(0.999)  # from there on nothing is drawn
    connectome = Connectome(3 * third, 0, settings=Settings(random_seed=seed))
    connectome.add_neurons(3 * third, excitability=np.where(usual, excitability, 0))
    backend = backend_factory().load(connectome, NetworkShape.of(connectome, ledger_window=2))
    backend.inject(np.arange(3 * third, dtype=np.uint32), np.ones(3 * third, np.float32))
    fired = backend.burst(burst).fired
    backend.close()
    expected = np.arange(third, 2 * third)[usual[third : 2 * third]]
    np.testing.assert_array_equal(fired, expected)
