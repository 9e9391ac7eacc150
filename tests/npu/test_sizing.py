"""plan_memory says, before a load, what is then used: to the byte."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import BackendFactory, shared_data

from gpu_npu import NPU, Area, Connectome
from gpu_npu.backends.memory import load_bytes
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome.generators import RandomSynapses, fixed_out_degree, fixed_probability, seed_example
from gpu_npu.io import load
from gpu_npu.npu.sizing import plan_memory

NETWORKS: dict[str, Callable[[], Connectome]] = {
    "empty": lambda: Connectome(0, 0),
    "no synapse": lambda: fixed_out_degree(33, 0, seed=1),
    **{f"degree {degree}": lambda degree=degree: fixed_out_degree(700, degree, seed=1) for degree in (1, 2, 3, 17, 100)},
    "degree 2000": lambda: fixed_out_degree(150, 2000, seed=1, weight=(1, 9), psp=(1, 9)),
    "uneven": lambda: fixed_probability(500, 0.01, seed=2),
    "u16 weights": lambda: fixed_out_degree(300, 7, seed=3, weight=(1, 300)),
    "u16 psps": lambda: fixed_out_degree(300, 7, seed=4, psp=300),
    "u16 psps each": lambda: fixed_out_degree(300, 7, seed=4, weight=(1, 300), psp=(1, 300)),
    "psp each": lambda: fixed_out_degree(300, 7, seed=5, psp=(1, 2)),
    "divided psps": lambda: fixed_out_degree(300, 7, seed=6, areas={0: Area(psp_uniform=False)}),
    "room to grow": lambda: roomy(),
    "removed": lambda: removed(),
    "seed": seed_example,
}


def roomy() -> Connectome:
    connectome = Connectome(900, 5000)
    connectome.add_neurons(400)
    connectome.add_synapses(np.arange(400), np.arange(400)[::-1].copy(), 3, np.arange(400) % 5)
    return connectome


def removed() -> Connectome:
    """One source whose psps are equal only once a synapse is gone, and one that has none left."""
    connectome = Connectome(10, 8)
    connectome.add_neurons(10)
    connectome.add_synapses([0] * 6 + [1, 1], [1, 2, 3, 4, 5, 6, 2, 3], 1, [9, 1, 1, 1, 1, 1, 4, 4])
    assert connectome.remove_synapses([0, 1, 1], [1, 2, 3]).all()
    return connectome


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_planned_is_what_is_used(name: str, backend_factory: BackendFactory) -> None:
    connectome = NETWORKS[name]()
    with NPU.from_connectome(connectome, fire_ledger_window=7, backend=backend_factory) as npu:
        used = npu.memory()
        if npu.backend == "emulated":
            packed, apart = load_bytes(connectome, NetworkShape.of(connectome, ledger_window=7))[0], 4 * npu.neuron_capacity
            used["tasks"] = packed["tasks"]  # more where rows are heavy early
            # One variant never packs, one has accumulators twice.
            assert used in [{**packed, "neurons": packed["neurons"] + more} for more in (0, apart, 2 * apart)]
        else:
            plan = plan_memory(connectome, fire_ledger_window=7, backend=npu.backend)
            assert plan.pieces == used
            assert plan.needed == sum(used.values())
            assert plan.fits


def test_the_fly_hemisphere() -> None:
    connectome = load(shared_data() / "flywire_right.npz")
    for backend in ("cpu", "reference"):
        plan = plan_memory(connectome, backend=backend)
        with NPU.from_connectome(connectome, backend=backend) as npu:
            assert plan.pieces == npu.memory()


def test_synapses_of_a_source_count() -> None:
    source = RandomSynapses(100, 30, seed=1, psp=(1, 3))
    connectome = fixed_out_degree(100, 5, seed=1)
    for backend in ("cpu", "reference"):
        plan = plan_memory(connectome, synapses=source, backend=backend)
        with NPU.from_connectome(connectome.copy(), synapses=source, backend=backend) as npu:
            assert plan.pieces == npu.memory()


def test_capacities_are_those_of_the_npu() -> None:
    connectome = fixed_out_degree(100, 5, seed=1)
    capacities = {"neuron_capacity": 300, "synapse_capacity": 4000}
    plan = plan_memory(connectome, **capacities, backend="cpu")
    with NPU.from_connectome(connectome, **capacities, backend="cpu") as npu:
        assert plan.pieces == npu.memory()


def test_removed_synapses_take_no_room_where_none_is_reserved() -> None:
    connectome = removed()
    plan = plan_memory(connectome, synapse_capacity=5, backend="cpu")
    with NPU.from_connectome(connectome, synapse_capacity=5, backend="cpu") as npu:
        assert plan.pieces == npu.memory()


def test_a_target_with_more_arrivals_than_an_accumulator_counts_beside_its_sum() -> None:
    connectome = Connectome(5, 2**15, weight_dtype=np.uint16, psp_dtype=np.uint16)
    connectome.add_neurons(5)
    connectome.add_synapses(np.arange(2**15) % 4, 4, 1, 1)
    with NPU.from_connectome(connectome, backend="cpu") as npu:
        assert plan_memory(connectome, backend="cpu").pieces == npu.memory()
        less = fixed_out_degree(5, 1, seed=0, weight=300, psp=300)
        few, _ = load_bytes(less, NetworkShape.of(less), owned=True)
        assert npu.memory()["neurons"] == few["neurons"] + 4 * 5


def test_the_load_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_memory(seed_example(), backend="cpu")
    assert plan.loading > 0
    for free, fits in ((plan.needed + plan.loading, True), (plan.needed + plan.loading - 1, False)):
        monkeypatch.setattr("gpu_npu.backends.devices.cpu.host_memory", lambda free=free: (free, 2 * free))
        again = plan_memory(seed_example(), backend="cpu")
        assert (again.free, again.total, again.fits) == (free, 2 * free, fits)


def test_the_backend_and_why() -> None:
    plan = plan_memory(fixed_out_degree(3, 1, seed=0), backend="reference")
    assert (plan.backend, plan.reason) == ("reference", "chosen")
    assert "NumPy" in plan.description
    assert plan_memory(fixed_out_degree(3, 1, seed=0)).reason.startswith("auto")
