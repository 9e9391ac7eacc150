"""Random networks: the same for a seed, with the degrees asked for, and the example stays alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_npu.backends.base import Platform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import SYNAPSE_FIELDS, Area, CapacityError, Connectome, NetworkError, Settings, SynapseBatch
from gpu_npu.connectome.generators import (
    RandomSynapses,
    draw,
    fixed_in_degree,
    fixed_out_degree,
    fixed_probability,
    seed_example,
)

GENERATORS: dict[str, Callable[..., Connectome]] = {
    "out": lambda **extra: fixed_out_degree(500, 20, **extra),
    "in": lambda **extra: fixed_in_degree(500, 20, **extra),
    "probability": lambda **extra: fixed_probability(500, 0.04, **extra),
}


def contents(network: Connectome) -> list[bytes]:
    return [array.tobytes() for array in (*network.neurons.arrays(), *network.synapses.arrays())]


@pytest.mark.parametrize("name", GENERATORS)
def test_a_seed_is_a_network(name: str) -> None:
    make = GENERATORS[name]
    options: dict[str, Any] = {"weight": (1, 300), "psp": (0, 3), "threshold": 7}
    assert contents(make(seed=1, **options)) == contents(make(seed=1, **options))
    assert contents(make(seed=1, **options)) != contents(make(seed=2, **options))


@pytest.mark.parametrize("name", GENERATORS)
def test_options(name: str) -> None:
    settings, areas = Settings(random_seed=5), {4: Area("all")}
    network = GENERATORS[name](
        seed=3, weight=(1, 4), psp=(2, 300), inhibitory_fraction=0.3, settings=settings, areas=areas, threshold=7, cortical_area=4
    )
    network.validate()
    synapses = network.synapses
    assert network.settings == settings and network.areas == areas and network.neuron_count == network.neuron_capacity == 500
    assert (network.neurons.threshold == 7).all() and (network.neurons.cortical_area == 4).all()
    assert np.unique(synapses.weight).tolist() == [1, 2, 3, 4] and synapses.weight.dtype == np.uint8
    assert synapses.psp.min() == 2 and synapses.psp.max() == 300 and synapses.psp.dtype == np.uint16
    # Inhibition belongs to the neuron, and exactly that share of the neurons has it.
    inhibits = np.zeros(500, np.bool_)
    inhibits[synapses.source[synapses.inhibitory]] = True
    assert (inhibits[synapses.source] == synapses.inhibitory).all() and inhibits.sum() == 150


@pytest.mark.parametrize("name", ["out", "in"])
def test_degrees(name: str) -> None:
    """One side has the degree exactly, the other is binomial: 4 sigma of the mean and of the variance."""
    synapses = GENERATORS[name](seed=4).synapses
    exact, drawn = (synapses.source, synapses.target) if name == "out" else (synapses.target, synapses.source)
    assert (np.bincount(exact, minlength=500) == 20).all()
    degrees = np.bincount(drawn, minlength=500)
    assert degrees.mean() == 20
    assert abs(degrees.var() - 20) < 4 * 20 * (2 / 500) ** 0.5
    assert drawn.min() < 5 and drawn.max() >= 495


def test_probability() -> None:
    network = fixed_probability(2000, 0.01, seed=5)
    pairs = network.synapses.source.astype(np.int64) * 2000 + network.synapses.target
    assert (np.diff(pairs) > 0).all()
    assert abs(len(pairs) - 40_000) < 4 * (40_000 * 0.99) ** 0.5
    for ids in (network.synapses.source, network.synapses.target):
        degrees = np.bincount(ids, minlength=2000)
        assert abs(degrees.var() - 20 * 0.99) < 4 * 20 * (2 / 2000) ** 0.5
    # A quarter of all cells holds a quarter of the synapses, the last cells included.
    assert abs((pairs >= 3_000_000).sum() - 10_000) < 4 * 10_000**0.5


def test_probability_at_its_ends() -> None:
    assert len(fixed_probability(50, 0, seed=1).synapses.source) == 0
    full = fixed_probability(50, 1, seed=1).synapses
    assert (full.source * 50 + full.target == np.arange(2500)).all()
    assert len(fixed_probability(100_000, 1e-18, seed=1).synapses.source) == 0
    assert abs(len(fixed_probability(100_000, 1e-7, seed=1).synapses.source) - 1000) < 4 * 1000**0.5


@pytest.mark.parametrize("name", ["out", "in", "probability"])
def test_no_neurons(name: str) -> None:
    make: Any = {"out": fixed_out_degree, "in": fixed_in_degree, "probability": fixed_probability}[name]
    assert make(0, 1, seed=0).neuron_capacity == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fixed_out_degree(-1, 2, seed=0), "neurons: -1"),
        (lambda: fixed_out_degree(5, 2.5, seed=0), "degree: 2.5"),  # type: ignore[arg-type]
        (lambda: fixed_in_degree(5, -2, seed=0), "degree: -2"),
        (lambda: fixed_in_degree(5, 2, seed=-1), "seed: -1"),
        (lambda: fixed_probability(5, 1.5, seed=0), "probability: 1.5 is outside 0..1"),
        (lambda: fixed_probability(5, float("nan"), seed=0), "probability: nan"),
        (lambda: fixed_probability(5, 0.5, seed=0, inhibitory_fraction=-0.5), "inhibitory_fraction: -0.5"),
        (lambda: fixed_probability(5, 0.5, seed=0, weight=(3, 2)), r"weight: \(3, 2\) is not"),
        (lambda: fixed_probability(5, 0.5, seed=0, psp=65536), "psp: 65536 is not"),
        (lambda: fixed_probability(5, 0.5, seed=0, threshold=[1, 2]), "threshold: 2 values for 5"),
        (lambda: seed_example(-3), "seed: -3"),
        (lambda: RandomSynapses(5, -1, seed=0), "degree: -1"),
        (lambda: RandomSynapses(5, 1, seed=-1), "seed: -1"),
        (lambda: RandomSynapses(-5, 1, seed=0), "neurons: -5"),
        (lambda: RandomSynapses(2**30 + 1, 1, seed=0), "neurons: 1,073,741,825 is more than 1,073,741,824"),
        (lambda: RandomSynapses(5, 1, seed=0, weight=(3, 70_000)), r"weight: \(3, 70000\) is not"),
        (lambda: RandomSynapses(5, 1, seed=0, inhibitory_fraction=2), "inhibitory_fraction: 2 is outside"),
    ],
)
def test_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((NetworkError, CapacityError), match=message):
        make()


def test_draws_are_those_of_splitmix64() -> None:
    """The outputs that its authors' program gives for the seeds 0 and 1234567."""
    assert draw(0, np.arange(3, dtype=np.uint64)).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert draw(1234567, np.arange(2, dtype=np.uint64)).tolist() == [6457827717110365317, 3203168211198807973]


@pytest.mark.parametrize("incoming", [False, True])
def test_random_synapses(incoming: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Degrees, ranges and shares as asked for; 4 sigma. Any cut into batches gives the same."""
    ranges: Any = {"weight": (3, 300), "psp": (0, 4), "delay": (2, 9)}
    source = RandomSynapses(1000, 40, seed=7, incoming=incoming, inhibitory_fraction=0.3, **ranges)
    assert (source.total, source.weight_dtype, source.psp_dtype, source.delay_dtype) == (40_000, np.uint16, np.uint8, np.uint8)
    whole = SynapseBatch.concatenate(source)
    monkeypatch.setattr("gpu_npu.connectome.generators.SYNAPSES_AT_A_TIME", 777)
    cut = SynapseBatch.concatenate(source)
    for name in SYNAPSE_FIELDS:
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name))
    other = SynapseBatch.concatenate(RandomSynapses(1000, 40, seed=8, incoming=incoming, **ranges))
    drawn_names = set(SYNAPSE_FIELDS) - {"target" if incoming else "source"}
    assert all((getattr(whole, name) != getattr(other, name)).any() for name in drawn_names)
    given, drawn = (whole.target, whole.source) if incoming else (whole.source, whole.target)
    np.testing.assert_array_equal(given, np.repeat(np.arange(1000), 40))
    degrees = np.bincount(drawn, minlength=1000)
    assert abs(degrees.var() - 40) < 4 * 40 * (2 / 1000) ** 0.5
    assert (np.unique(whole.weight) == np.arange(3, 301)).all() and (np.unique(whole.psp) == np.arange(5)).all()
    assert abs(whole.weight.mean() - 151.5) < 4 * (298**2 / 12 / 40_000) ** 0.5
    assert abs(whole.psp.mean() - 2) < 4 * (2 / 40_000) ** 0.5
    assert (np.unique(whole.delay) == np.arange(2, 10)).all() and abs(whole.delay.mean() - 5.5) < 4 * (63 / 12 / 40_000) ** 0.5
    # Weights, psps, delays and ends have nothing to do with each other, nor with those of the next synapse.
    independent = ((whole.weight, whole.psp), (whole.weight, drawn), (whole.psp, drawn), (drawn[1:], drawn[:-1]))
    for one, two in (*independent, (whole.delay, drawn), (whole.delay, whole.weight), (whole.delay, whole.psp)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / 200
    inhibits = np.zeros(1000, np.bool_)
    inhibits[whole.source[whole.inhibitory]] = True
    assert (inhibits[whole.source] == whole.inhibitory).all() and abs(inhibits.sum() - 300) < 4 * 210**0.5


def test_random_synapses_at_their_ends() -> None:
    assert list(RandomSynapses(0, 5, seed=0)) == list(RandomSynapses(5, 0, seed=0)) == []
    for fraction in (0, 1):
        batch = SynapseBatch.concatenate(RandomSynapses(50, 3, seed=1, inhibitory_fraction=fraction))
        assert (batch.inhibitory == bool(fraction)).all()
    assert (RandomSynapses(1, 9, seed=2**70).batch(0, 9).target == 0).all()


def fired_share(platform: Platform, network: Connectome, bursts: int) -> Any:
    backend = platform.load(network, NetworkShape.of(network, ledger_window=1))
    powered = [area for area, flags in network.areas.items() if flags.power]
    backend.set_power(np.flatnonzero(np.isin(network.neurons.cortical_area, powered)).astype(np.uint32))
    return np.array([len(backend.burst(number).fired) for number in range(1, bursts + 1)]) / network.neuron_count


def test_the_example_is_the_one_of_the_seed() -> None:
    network = seed_example()
    network.validate()
    assert (network.neuron_count, network.synapse_count) == (22590, 500_000)
    assert contents(network) == contents(seed_example(0)) != contents(seed_example(1))
    assert 0.2 < network.synapses.inhibitory.mean() < 0.3


@pytest.mark.parametrize("bursts", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_the_example_neither_dies_nor_saturates(bursts: int) -> None:
    from conftest import reference_backend

    network = seed_example()
    network.freeze()
    share = fired_share(reference_backend(), network, bursts)
    assert share[50:].min() > 0.003 and share[50:].max() < 0.05
    quarters = share[100:].reshape(4, -1).mean(axis=1)
    assert abs(quarters / quarters.mean() - 1).max() < 0.15
