"""Random networks, the same for the same seed: whole connectomes (NumPy's PCG64), and synapses by their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import U64, spread
from gpu_npu.checks import check_count, check_integer, check_real
from gpu_npu.errors import CapacityError, NetworkError

from .connectome import Connectome
from .fields import MAX_NEURONS, CountType, DelayType
from .settings import Area, Settings
from .synapses import SYNAPSES_AT_A_TIME, Procedure, SynapseBatch, SynapseSource

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
    delay: Range = 1,
    settings: Settings | None = None,
    areas: Mapping[int, Area] | None = None,
    **fields: ArrayLike,
) -> Connectome:
    """`degree` synapses leave every neuron, each to a neuron drawn uniformly: parallel synapses and self-loops occur.

    inhibitory_fraction: share of neurons (drawn) whose synapses inhibit. weight, psp, delay: uint16 where one can
    exceed 255.
    fields: neuron fields, as for `Connectome.add_neurons`.
    """
    rng, neurons = _start(seed, neurons)
    degree = check_integer(degree, "degree")
    target = _drawn(rng, neurons, neurons * degree)
    source = np.repeat(np.arange(neurons, dtype=np.uint32), degree)
    batch = _batch(rng, neurons, source, target, inhibitory_fraction, (weight, psp, delay))
    return _network(neurons, batch, settings, areas, fields)


def fixed_in_degree(
    neurons: int,
    degree: int,
    *,
    seed: int,
    inhibitory_fraction: float = 0.2,
    weight: Range = 1,
    psp: Range = 1,
    delay: Range = 1,
    settings: Settings | None = None,
    areas: Mapping[int, Area] | None = None,
    **fields: ArrayLike,
) -> Connectome:
    """`degree` synapses end in every neuron, each from a neuron drawn uniformly; otherwise like `fixed_out_degree`."""
    rng, neurons = _start(seed, neurons)
    degree = check_integer(degree, "degree")
    source = _drawn(rng, neurons, neurons * degree)
    target = np.repeat(np.arange(neurons, dtype=np.uint32), degree)
    batch = _batch(rng, neurons, source, target, inhibitory_fraction, (weight, psp, delay))
    return _network(neurons, batch, settings, areas, fields)


def fixed_probability(
    neurons: int,
    probability: float,
    *,
    seed: int,
    inhibitory_fraction: float = 0.2,
    weight: Range = 1,
    psp: Range = 1,
    delay: Range = 1,
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
    batch = _batch(rng, neurons, source, target, inhibitory_fraction, (weight, psp, delay))
    return _network(neurons, batch, settings, areas, fields)


def _start(seed: int, neurons: int) -> tuple[np.random.Generator, int]:
    return np.random.Generator(np.random.PCG64(check_integer(seed, "seed"))), check_count(neurons, "neurons", most=MAX_NEURONS)


def _share(value: float, what: str) -> None:
    check_real(value, what, 0.0, 1.0)


def _drawn(rng: np.random.Generator, neurons: int, count: int) -> Ids:
    try:
        return rng.integers(0, max(neurons, 1), count, dtype=np.uint32)
    except (MemoryError, OverflowError, ValueError) as error:
        raise CapacityError(f"{count:,} synapses exceed this machine's memory; RandomSynapses makes them on a device") from error


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


def _bounds(wanted: Range, what: str) -> tuple[int, int]:
    low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    least = int(what == "delay")
    if check_integer(low, what) > check_integer(high, what) or low < least or high > 65535:
        raise NetworkError(f"{what}: {wanted!r} is not a value or a (lowest, highest) in {least}..65535")
    return low, high


def _narrowest(bounds: tuple[int, int]) -> Any:
    return np.uint8 if bounds[1] <= 255 else np.uint16


def _counts(rng: np.random.Generator, wanted: Range, count: int, what: str) -> NDArray[Any]:
    low, high = _bounds(wanted, what)
    return rng.integers(low, high, count, dtype=_narrowest((low, high)), endpoint=True)


def _batch(
    rng: np.random.Generator, neurons: int, source: Ids, target: Ids, inhibitory_fraction: float, values: tuple[Range, Range, Range]
) -> SynapseBatch:
    """Synapses with these ends, their weights, psps and delays drawn from `values`, and the signs of their sources."""
    _share(inhibitory_fraction, "inhibitory_fraction")
    weight, psp, delay = values
    weights = _counts(rng, weight, len(source), "weight")
    psps = _counts(rng, psp, len(source), "psp")
    inhibits = np.zeros(neurons, np.bool_)
    inhibits[rng.permutation(neurons)[: round(neurons * inhibitory_fraction)]] = True
    ends = {"source": source.astype(np.uint32, copy=False), "target": target.astype(np.uint32, copy=False)}
    low, high = _bounds(delay, "delay")
    delays = spread(low, len(source), _narrowest((low, high))) if low == high else _counts(rng, delay, len(source), "delay")
    return SynapseBatch(**ends, weight=weights, psp=psps, inhibitory=inhibits[source], delay=delays)


def _network(
    neurons: int, batch: SynapseBatch, settings: Settings | None, areas: Mapping[int, Area] | None, fields: Mapping[str, ArrayLike]
) -> Connectome:
    dtypes: dict[str, Any] = {f"{name}_dtype": getattr(batch, name).dtype for name in ("weight", "psp", "delay")}
    network = Connectome(neurons, len(batch), settings=settings, areas=areas, **dtypes)
    network.add_neurons(neurons, **fields)
    network.synapses.append(batch)
    return network


# -- synapses by their number --------------------------------------------------------------------------------------
_WORD = np.uint64(32)
_LOW_WORD = np.uint64(2**32 - 1)


def draw(key: int, numbers: U64) -> U64:
    """64 random bits for each number: what SplitMix64 (Steele, Lea, Flood 2014), started at `key`, gives as its number-th
    output. Any of them is computed without the others. The kernels say it again, in building.cu."""
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64((key + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


@dataclass(frozen=True)
class RandomSynapses(SynapseSource):
    """`degree` synapses leave every neuron (`incoming`: end in every neuron), each to (from) one drawn uniformly: parallel
    synapses and self-loops occur.

    Every property of a synapse is a hash of its number, so that any part can be made at any time, anywhere: a backend makes
    them on its device, and no host holds them. Numbers go through the neurons in turn, `degree` to each.

    neurons : ids that synapses join, 0 to neurons - 1.
    inhibitory_fraction : probability of a neuron that its synapses inhibit.
    weight, psp, delay : one value or (lowest, highest), uniform, both included; uint16 where one can exceed 255.
    """

    neurons: int
    degree: int
    seed: int
    incoming: bool = False
    inhibitory_fraction: float = 0.2
    weight: Range = 1
    psp: Range = 1
    delay: Range = 1

    def __post_init__(self) -> None:
        check_integer(self.seed, "seed")
        check_integer(self.degree, "degree")
        if check_integer(self.neurons, "neurons") > MAX_NEURONS:
            raise CapacityError(f"neurons: {self.neurons:,} is more than {MAX_NEURONS:,}, the most that synapses can name")
        _share(self.inhibitory_fraction, "inhibitory_fraction")
        _bounds(self.weight, "weight")
        _bounds(self.psp, "psp")
        _bounds(self.delay, "delay")

    @property
    def total(self) -> int:
        return self.neurons * self.degree

    @property
    def weight_dtype(self) -> CountType:
        dtype: CountType = _narrowest(self.weight_range)
        return dtype

    @property
    def psp_dtype(self) -> CountType:
        dtype: CountType = _narrowest(self.psp_range)
        return dtype

    @property
    def delay_dtype(self) -> DelayType:
        dtype: DelayType = _narrowest(self.delay_range)
        return dtype

    @property
    def delay_range(self) -> tuple[int, int]:
        return _bounds(self.delay, "delay")

    @property
    def weight_range(self) -> tuple[int, int]:
        """(lowest, highest)"""
        return _bounds(self.weight, "weight")

    @property
    def psp_range(self) -> tuple[int, int]:
        """(lowest, highest)"""
        return _bounds(self.psp, "psp")

    @property
    def keys(self) -> tuple[int, int, int, int]:
        """Of the draws for: the other end and the values of a synapse, by its number; the sign of a neuron, by its id; the delay of a
        synapse."""
        ends, values, signs, delays = draw(self.seed % 2**64, np.arange(4, dtype=np.uint64)).tolist()
        return ends, values, signs, delays

    @property
    def inhibitory_below(self) -> int:
        """A neuron inhibits if the upper 32 bits of its draw are below this."""
        return round(self.inhibitory_fraction * 2**32)

    def procedure(self) -> Procedure | None:
        ends, values, signs, delays = self.keys
        sizes = {"neurons": self.neurons, "degree": self.degree, "incoming": self.incoming}
        keys = {"end_key": ends, "value_key": values, "sign_key": signs, "delay_key": delays, "inhibitory_below": self.inhibitory_below}
        bounds = {"weight": self.weight_range, "psp": self.psp_range, "delay": self.delay_range}
        ranges = {f"{name}s": low for name, (low, _) in bounds.items()}
        ranges |= {f"{name}_values": high - low + 1 for name, (low, high) in bounds.items()}
        arguments: dict[str, np.generic] = {name: np.uint32(value) for name, value in sizes.items()}
        arguments |= {name: np.uint64(value) for name, value in keys.items()}
        arguments |= {name: np.uint32(value) for name, value in ranges.items()}
        return Procedure("generate_synapses", arguments)

    def within(self, neurons: int) -> SynapseSource:
        if self.neurons > neurons:
            raise CapacityError(f"synapses between {self.neurons:,} neurons, where {neurons:,} ids are reserved; reserve more")
        return self

    def __iter__(self) -> Iterator[SynapseBatch]:
        for first in range(0, self.total, SYNAPSES_AT_A_TIME):
            yield self.batch(first, min(SYNAPSES_AT_A_TIME, self.total - first))

    def batch(self, first: int, count: int) -> SynapseBatch:
        """Synapses first to first + count - 1, as every backend makes them."""
        ends, values, signs, delays = self.keys
        numbers = np.arange(first, first + count, dtype=np.uint64)
        given = (numbers // np.uint64(max(self.degree, 1))).astype(np.uint32)
        # The upper 64 of the 128 bits of draw * neurons.
        bits, n = draw(ends, numbers), np.uint64(self.neurons)
        drawn = ((bits >> _WORD) * n + ((bits & _LOW_WORD) * n >> _WORD) >> _WORD).astype(np.uint32)
        source, target = (drawn, given) if self.incoming else (given, drawn)
        bits = draw(values, numbers)
        weight, psp = _drawn_from(self.weight_range, bits >> _WORD), _drawn_from(self.psp_range, bits & _LOW_WORD)
        inhibitory = draw(signs, source.astype(np.uint64)) >> _WORD < np.uint64(self.inhibitory_below)
        shortest, longest = self.delay_range
        one = shortest == longest
        delay = spread(shortest, count, self.delay_dtype) if one else _drawn_from(self.delay_range, draw(delays, numbers) >> _WORD)
        return SynapseBatch(source, target, weight, psp, inhibitory, delay)


def _drawn_from(bounds: tuple[int, int], bits: U64) -> NDArray[Any]:
    """Of each 32 bits a value in these bounds, both included."""
    low, high = bounds
    return (np.uint64(low) + (bits * np.uint64(high - low + 1) >> _WORD)).astype(_narrowest(bounds))


def seed_example(seed: int = 0) -> Connectome:
    """The built-in example `seed`: 22,590 neurons, 500,000 synapses, driven by a power area.

    Area 1, "power", has the first 590 neurons; area 0, "cortex", the others, of which a quarter inhibit. What drives
    is the power area alone, since a spike brings forth less than one other on average: with seed 0, in every burst from
    50 to 10,000, between 0.3 and 1.3 % of the neurons fire (0.8 % on average, in every tenth of the run alike).
    """
    neurons, synapses, power = 22590, 500_000, 590
    rng = np.random.Generator(np.random.PCG64(check_integer(seed, "seed")))
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
