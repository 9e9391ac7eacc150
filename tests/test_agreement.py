"""Random networks, random scripts: every backend gives what the reference gives, to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from conftest import BACKENDS
from hypothesis import given, settings
from networks import SWITCHES, Maker, Plan, agree, perform, plans

from gpu_npu.backends.base import Backend
from gpu_npu.backends.reference import Reference

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
@settings(max_examples=10_000)
@given(plan=plans())
def test_ten_thousand_random_networks(backend_factory: Callable[[], Backend], plan: Plan) -> None:
    run_beside_reference(plan, backend_factory)


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
