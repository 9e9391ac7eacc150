"""Random networks, random scripts: every backend gives what the reference gives, to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from conftest import BACKENDS
from hypothesis import given, settings
from networks import SWITCHES, Maker, Plan, agree, perform, plans
from scalar_model import draw

from gpu_npu.backends.base import Backend
from gpu_npu.backends.reference import Reference
from gpu_npu.connectome import Area, Connectome, Settings

others = pytest.mark.parametrize("backend_factory", [name for name in BACKENDS if name != "reference"], indirect=True)


def run_beside_reference(plan: Plan, factory: Callable[[], Backend]) -> None:
    backend = factory()
    try:
        agree(plan, backend, Reference())
    finally:
        backend.close()


@others
@given(plan=plans())
def test_random_networks(backend_factory: Callable[[], Backend], plan: Plan) -> None:
    run_beside_reference(plan, backend_factory)


@pytest.mark.long
@others
def test_ten_thousand_random_networks(backend_factory: Callable[[], Backend], request: pytest.FixtureRequest) -> None:
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

    @settings(settings.get_profile("default"))
    @given(plan=plans())
    def look(plan: Plan) -> None:
        maker, backend = Maker(plan), Reference()
        backend.load(
            maker.connectome, neuron_capacity=maker.capacity, synapse_capacity=maker.synapse_capacity, ledger_window=plan.bursts
        )
        outputs = [perform(backend, name, arguments) for name, arguments in maker.make_script()]
        spikes = sum(len(output.fired) for output in outputs if hasattr(output, "fired"))
        carried = sum(output.synaptic_injections for output in outputs if hasattr(output, "fired"))
        if spikes >= 10 and carried >= 10:
            met.update(plan.switches)
            met.update(["big"] if plan.neurons >= 255 else [])
            met.update(["hub"] if plan.hub == 10_000 else [])

    look()
    weak = {name: met[name] for name in (*SWITCHES, "big", "hub") if met[name] < 3}
    assert not weak, f"too few active networks with these: {weak}"


def test_shares_of_a_divided_psp_are_rounded_exactly(backend_factory: Callable[[], Backend]) -> None:
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
    backend = backend_factory()
    backend.load(connectome, neuron_capacity=3 * count, synapse_capacity=connectome.synapse_capacity, ledger_window=2)
    backend.inject(np.arange(2 * count, dtype=np.uint32), np.ones(2 * count, np.float32))
    assert len(backend.burst(1).fired) == 2 * count
    backend.burst(2)
    ids, potentials = backend.candidates()
    backend.close()
    left = [k * ((m * 2**32 + k // 2) // k) - m * 2**32 for m, k in shares]
    assert min(left) < 0 < max(left)
    np.testing.assert_array_equal(ids, target)
    np.testing.assert_array_equal(potentials, np.array(left) / 2.0**32)


def test_excitability_is_compared_exactly(backend_factory: Callable[[], Backend]) -> None:
    """A neuron whose excitability is its draw does not fire; with the next float32 above it does, below it does not."""
    burst, seed, third = 1, 12345, 700
    draws = np.array([float(draw(j, burst, seed)) for j in range(3 * third)], np.float32)
    excitability = draws.copy()
    excitability[third : 2 * third] = np.nextafter(draws[third : 2 * third], np.float32(2))
    excitability[2 * third :] = np.nextafter(draws[2 * third :], np.float32(0))
    usual = excitability < np.float32(0.999)  # from there on nothing is drawn
    connectome = Connectome(3 * third, 0, settings=Settings(random_seed=seed))
    connectome.add_neurons(3 * third, excitability=np.where(usual, excitability, 0))
    backend = backend_factory()
    backend.load(connectome, neuron_capacity=3 * third, synapse_capacity=0, ledger_window=2)
    backend.inject(np.arange(3 * third, dtype=np.uint32), np.ones(3 * third, np.float32))
    fired = backend.burst(burst).fired
    backend.close()
    expected = np.arange(third, 2 * third)[usual[third : 2 * third]]
    np.testing.assert_array_equal(fired, expected)
