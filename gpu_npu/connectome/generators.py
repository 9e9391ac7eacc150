"""Random networks, the same for the same seed (NumPy's PCG64)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .connectome import Connectome
from .errors import NetworkError
from .settings import Area, Settings
from .validation import check_count

Range = int | tuple[int, int]
"""One value for all synapses, or (lowest, highest): uniform, both ends included."""
Ids = NDArray[np.integer[Any]]


def fixed_out_degree(
    neurons: int,
    degree: int,
    *,
    seed: int,
    inhibitory_fraction: float = 0.2,
    weight: Range = 1,
    psp: Range = 1,
    settings: Settings | None = None,
    areas: Mapping[int, Area] | None = None,
    **fields: ArrayLike,
) -> Connectome:
    """`degree` synapses leave every neuron, each to a neuron drawn uniformly: parallel synapses and self-loops occur.

    inhibitory_fraction: share of neurons (drawn) whose synapses inhibit. weight, psp: uint16 where one can exceed 255.
    fields: neuron fields, as for `Connectome.add_neurons`.
    """
    rng, neurons = _start(seed, neurons)
    degree = check_count(degree, "degree")
    source = np.repeat(np.arange(neurons, dtype=np.uint32), degree)
    target = _drawn(rng, neurons, neurons * degree)
    return _network(rng, neurons, source, target, inhibitory_fraction, weight, psp, settings, areas, fields)


def fixed_in_degree(
    neurons: int,
    degree: int,
    *,
    seed: int,
    inhibitory_fraction: float = 0.2,
    weight: Range = 1,
    psp: Range = 1,
    settings: Settings | None = None,
    areas: Mapping[int, Area] | None = None,
    **fields: ArrayLike,
) -> Connectome:
    """`degree` synapses end in every neuron, each from a neuron drawn uniformly; otherwise like `fixed_out_degree`."""
    rng, neurons = _start(seed, neurons)
    degree = check_count(degree, "degree")
    target = np.repeat(np.arange(neurons, dtype=np.uint32), degree)
    source = _drawn(rng, neurons, neurons * degree)
    return _network(rng, neurons, source, target, inhibitory_fraction, weight, psp, settings, areas, fields)


def fixed_probability(
    neurons: int,
    probability: float,
    *,
    seed: int,
    inhibitory_fraction: float = 0.2,
    weight: Range = 1,
    psp: Range = 1,
    settings: Settings | None = None,
    areas: Mapping[int, Area] | None = None,
    **fields: ArrayLike,
) -> Connectome:
    """Every ordered pair has a synapse with this probability: no parallel synapses, self-loops like any other pair.

    Otherwise like `fixed_out_degree`. Work and memory: O(synapses).
    """
    rng, neurons = _start(seed, neurons)
    _share(probability, "probability")
    source, target = np.divmod(_hits(rng, neurons * neurons, probability), max(neurons, 1))
    return _network(rng, neurons, source, target, inhibitory_fraction, weight, psp, settings, areas, fields)


def _start(seed: int, neurons: int) -> tuple[np.random.Generator, int]:
    return np.random.Generator(np.random.PCG64(check_count(seed, "seed"))), check_count(neurons, "neurons")


def _share(value: float, what: str) -> None:
    if not 0 <= value <= 1:
        raise NetworkError(f"{what}: {value!r} is outside 0..1")


def _drawn(rng: np.random.Generator, neurons: int, count: int) -> Ids:
    return rng.integers(0, max(neurons, 1), count, dtype=np.uint32)


def _hits(rng: np.random.Generator, cells: int, probability: float) -> NDArray[np.int64]:
    """Ascending numbers below `cells`, each there with this probability: the gaps between them are geometric."""
    if probability == 0 or cells == 0:
        return np.zeros(0, np.int64)
    parts = []
    last = -1
    while last < cells:
        expected = (cells - last) * probability
        # A gap is cut at `cells` + 1, so that a sum of so few gaps cannot wrap.
        draws = min(int(expected + 4 * expected**0.5) + 16, 2**62 // (cells + 1))
        found = last + np.cumsum(np.minimum(rng.geometric(probability, draws), cells + 1))
        parts.append(found[found < cells])
        last = int(found[-1])
    return np.concatenate(parts)


def _counts(rng: np.random.Generator, wanted: Range, count: int, what: str) -> NDArray[Any]:
    low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    if check_count(low, what) > check_count(high, what) or high > 65535:
        raise NetworkError(f"{what}: {wanted!r} is not a value or a (lowest, highest) in 0..65535")
    dtype: Any = np.uint8 if high <= 255 else np.uint16
    return rng.integers(low, high, count, dtype=dtype, endpoint=True)


def _network(
    rng: np.random.Generator,
    neurons: int,
    source: Ids,
    target: Ids,
    inhibitory_fraction: float,
    weight: Range,
    psp: Range,
    settings: Settings | None,
    areas: Mapping[int, Area] | None,
    fields: Mapping[str, ArrayLike],
) -> Connectome:
    _share(inhibitory_fraction, "inhibitory_fraction")
    weights = _counts(rng, weight, len(source), "weight")
    psps = _counts(rng, psp, len(source), "psp")
    inhibits = np.zeros(neurons, np.bool_)
    inhibits[rng.permutation(neurons)[: round(neurons * inhibitory_fraction)]] = True
    network = Connectome(neurons, len(source), weight_dtype=weights.dtype, psp_dtype=psps.dtype, settings=settings, areas=areas)
    network.add_neurons(neurons, **fields)
    network.add_synapses(source, target, weights, psps, inhibits[source])
    return network


def seed_example(seed: int = 0) -> Connectome:
    """The network that the seed document speaks of: 22,590 neurons, 500,000 synapses, driven by a power area.

    Area 1, "power", has the first 590 neurons; area 0, "cortex", the others, of which a quarter inhibit. What drives
    is the power area alone, since a spike brings forth less than one other on average: with seed 0, in every burst from
    50 to 10,000, between 0.3 and 1.3 % of the neurons fire (0.8 % on average, in every tenth of the run alike).
    """
    neurons, synapses, power = 22590, 500_000, 590
    rng = np.random.Generator(np.random.PCG64(check_count(seed, "seed")))
    network = Connectome(neurons, synapses, areas={0: Area("cortex"), 1: Area("power", power=True)})
    threshold = rng.integers(50, 101, neurons)
    threshold[:power] = rng.integers(4, 13, power)
    network.add_neurons(
        neurons,
        membrane_potential=threshold * rng.uniform(-0.4, 0.8, neurons),  # not far from where it will wander
        threshold=threshold,
        leak_coefficient=rng.uniform(0.05, 0.2, neurons),
        refractory_period=rng.integers(1, 6, neurons),
        excitability=np.where(rng.random(neurons) < 0.1, 0.5, 1.0),
        consecutive_fire_limit=np.where(rng.random(neurons) < 0.1, 3, 0),
        snooze_period=4,
        cortical_area=(np.arange(neurons) < power).astype(np.uint32),
        coordinates=np.stack([np.arange(neurons) % 151, np.arange(neurons) // 151, np.zeros(neurons, np.int64)], axis=1),
    )
    inhibits = rng.random(neurons) < 0.25
    inhibits[:power] = False
    source = rng.integers(0, neurons, synapses)
    target = rng.integers(0, neurons, synapses)
    network.add_synapses(source, target, rng.integers(1, 21, synapses), 1, inhibits[source])
    return network
