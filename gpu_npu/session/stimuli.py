"""Stimuli as values: what is injected into which neurons, and when.

    stimuli = [Power("area:power"), Inject("1,2,5-8", 0.5, every=10), Poisson("all", 0.1), Schedule.read("sounds.npz")]

What is random depends on the network's random_seed, the place in the list, the burst and the place among the neurons alone,
so it is the same on every backend and after a checkpoint.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu import Connectome
from gpu_npu.arrays import F32, F64, I64, U32
from gpu_npu.checks import check_ids, check_integer, check_listed, check_path, check_potentials, check_real, shown
from gpu_npu.errors import NetworkError
from gpu_npu.io.archive import Archive
from gpu_npu.io.sonata import read_spikes
from gpu_npu.objects import OneLine, described

from .targets import Target, neurons_of

MOST_IMPULSES = 1000
"""Highest mean of a Poisson stimulus."""


# -- as they are bound to a network, and written to checkpoints -----------------------------------------------------
@dataclass(frozen=True, repr=False)
class Constant(OneLine):
    """The same before every K-th burst, from the first."""

    neurons: U32
    potential: F32
    every: int

    def before(self, burst: int) -> tuple[U32, F32]:
        """What to inject before this burst: ids, and a potential for each."""
        count = len(self.neurons) if (burst - 1) % self.every == 0 else 0
        return self.neurons[:count], np.broadcast_to(self.potential, count)


@dataclass(frozen=True, repr=False)
class Random(OneLine):
    """Impulses drawn anew for every burst and neuron.

    What is drawn is a function of (seed, number of the stimulus, burst, position in the list) alone: uniform numbers u of
    the Philox generator, 53 bits each, against the cumulative distribution of the number of impulses.
    """

    neurons: U32
    potential: F32
    cumulative: F64
    seed: int
    number: int

    def before(self, burst: int) -> tuple[U32, F32]:
        """What to inject before this burst: ids, and a potential for each."""
        raw = np.random.Philox(key=(self.seed, self.number), counter=(0, 0, burst, 0)).random_raw(len(self.neurons))
        u = (raw >> np.uint64(11)) * 2.0**-53
        hit = np.flatnonzero(u >= self.cumulative[0])
        impulses = np.searchsorted(self.cumulative, u[hit], side="right")
        return self.neurons[hit], impulses.astype(np.float32) * self.potential


@dataclass(frozen=True, repr=False)
class Scheduled(OneLine):
    """Potentials by burst, bursts ascending."""

    bursts: I64
    neurons: U32
    potentials: F32

    def before(self, burst: int) -> tuple[U32, F32]:
        """What to inject before this burst: ids, and a potential for each."""
        span = slice(*np.searchsorted(self.bursts, (burst, burst + 1)))
        return self.neurons[span], self.potentials[span]


Bound = Constant | Random | Scheduled
KINDS: dict[str, type[Bound]] = {"constant": Constant, "random": Random, "schedule": Scheduled}


# -- as they are given ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False, eq=False)
class Power(OneLine):
    """Neurons that the network's power_amount drives in every burst."""

    target: Target


@dataclass(frozen=True, repr=False, eq=False)
class Inject(OneLine):
    """A potential into each neuron before every `every`-th burst, from the first."""

    target: Target
    potential: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        check_integer(self.every, "every", 1)

    def bind(self, network: Connectome, number: int) -> Bound:
        """For this network, as number `number` of all stimuli."""
        return Constant(neurons_of(network, self.target, "Inject"), _amount(self.potential), self.every)


@dataclass(frozen=True, repr=False, eq=False)
class Rate(OneLine):
    """A potential into each neuron with a probability, burst by burst."""

    target: Target
    probability: float
    potential: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= check_real(self.probability, "probability", -math.inf, math.inf) <= 1:
            raise NetworkError(f"the probability {self.probability:g} is outside 0..1; a Poisson stimulus takes means above 1")

    def bind(self, network: Connectome, number: int) -> Bound:
        """For this network, as number `number` of all stimuli."""
        return _random(network, self, number, np.array([1 - self.probability, np.inf]))


@dataclass(frozen=True, repr=False, eq=False)
class Poisson(OneLine):
    """A Poisson number of impulses, of this mean a burst and of this potential each, into each neuron."""

    target: Target
    mean: float
    potential: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= check_real(self.mean, "mean", -math.inf, math.inf) <= MOST_IMPULSES:
            raise NetworkError(f"the mean {self.mean:g} is outside 0..{MOST_IMPULSES}")

    def bind(self, network: Connectome, number: int) -> Bound:
        """For this network, as number `number` of all stimuli."""
        mean = self.mean
        most = math.ceil(mean + 20 * math.sqrt(mean)) + 20
        logs = (k * math.log(mean) - mean - math.lgamma(k + 1) if mean else (-math.inf if k else 0.0) for k in range(most))
        cumulative = np.cumsum([math.exp(log) for log in logs])
        return _random(network, self, number, np.append(np.minimum(cumulative, 1), np.inf))


@dataclass(frozen=True, repr=False, eq=False)
class Schedule(OneLine):
    """Potentials into neurons before given bursts, which are counted from 1: an item of each array for each injection."""

    bursts: NDArray[Any]
    neurons: NDArray[Any]
    potentials: Any = 1.0
    """One for all, or one for each."""
    name: str = "Schedule"
    """For messages."""

    @classmethod
    def read(cls, path: str | os.PathLike[str], potential: float = 1.0) -> Schedule:
        """From the arrays burst, neuron and potential of a .npz file; potential: where the file has none. FileFormatError."""
        with Archive(check_path(path)) as archive:
            bursts = archive.array("burst")
            if bursts.dtype.kind not in "iu":
                raise archive.error(f"array 'burst' has dtype {bursts.dtype}, not integers")
            if bursts.size and not (int(bursts.min()) >= 1 and int(bursts.max()) < 2**63 - 1):
                at = int(bursts.argmin() if bursts.min() < 1 else bursts.argmax())
                raise archive.error(f"burst[{at}] = {bursts[at]}; bursts are counted from 1")
            neurons = archive.array("neuron", bursts.shape)
            if neurons.dtype.kind == "b":
                raise archive.error("array 'neuron' is a mask; an id for each of 'burst' is needed")
            return cls(bursts, neurons, archive.array("potential", bursts.shape) if "potential" in archive else potential, str(path))

    @classmethod
    def sonata(cls, path: str | os.PathLike[str], potential: float = 1.0, ms: float = 1.0, population: str | None = None) -> Schedule:
        """From a file of spikes of SONATA: a spike at t ms is injected before burst t / ms + 1, rounded down; each burst lasts `ms`."""
        if not 0 < check_real(ms, "ms", 0, math.inf) < math.inf:
            raise NetworkError(f"ms: {ms:g} is no duration of a burst")
        labels, times = read_spikes(check_path(path), population)
        return cls((times / ms * (1 + 1e-12)).astype(np.int64) + 1, labels, potential, str(path))

    def bind(self, network: Connectome, number: int) -> Bound:
        """For this network, as number `number` of all stimuli."""
        bursts = np.asarray(self.bursts)
        if bursts.ndim != 1 or bursts.dtype.kind not in "iu" or bursts.shape != np.shape(self.neurons) or (bursts < 1).any():
            raise NetworkError(f"{self.name}: bursts, integers of 1 or more, and neurons are needed, one of each for each injection")
        ids = check_ids(self.neurons, network.neuron_capacity, f"{self.name}: neuron", network.annotations.finder)
        amounts = check_potentials(self.potentials, len(ids), f"{self.name}: potential")
        order = np.argsort(bursts, kind="stable")
        return Scheduled(bursts.astype(np.int64)[order], ids[order], np.broadcast_to(amounts, len(ids))[order])


Stimulus = Power | Inject | Rate | Poisson | Schedule


def _random(network: Connectome, stimulus: Rate | Poisson, number: int, cumulative: F64) -> Random:
    neurons = neurons_of(network, stimulus.target, type(stimulus).__name__)
    return Random(neurons, _amount(stimulus.potential), cumulative, network.settings.random_seed, number)


def _amount(potential: float) -> F32:
    return check_potentials(potential, 1, "potential")


# -- all of a run --------------------------------------------------------------------------------------------------
class Stimuli:
    """All stimuli of a run, checked and bound to its network."""

    def __init__(self, bound: Iterable[Bound] = (), power: U32 | None = None) -> None:
        self.bound = list(bound)
        self.power: U32 = np.zeros(0, np.uint32) if power is None else power
        """Ids for `NPU.set_power_neurons`."""

    @classmethod
    def bind(cls, network: Connectome, stimuli: Iterable[Stimulus]) -> Stimuli:
        """Those given, for this network. NetworkError, NeuronIndexError, FileFormatError, OSError: see `neurons_of`."""
        power, bound = [np.zeros(0, np.uint32)], list[Bound]()
        for stimulus in check_listed(stimuli, "stimuli"):
            if not isinstance(stimulus, Stimulus):
                raise NetworkError(f"stimuli: {shown(stimulus)} is no Power, Inject, Rate, Poisson or Schedule")
            if isinstance(stimulus, Power):
                power.append(neurons_of(network, stimulus.target, "Power"))
            else:
                bound.append(stimulus.bind(network, len(bound)))
        return cls(bound, np.concatenate(power))

    def __repr__(self) -> str:
        return described(self, ", ".join(type(one).__name__ for one in self.bound) or "nothing is injected")

    def __bool__(self) -> bool:
        return bool(self.bound)

    def before(self, burst: int) -> Iterator[tuple[U32, F32]]:
        """What to inject before this burst, in the order of the stimuli."""
        for stimulus in self.bound:
            neurons, potentials = stimulus.before(burst)
            if len(neurons):
                yield neurons, potentials

    def written(self) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
        """All that is injected: what JSON can say, and arrays."""
        notes, arrays = [], {}
        for number, stimulus in enumerate(self.bound):
            note: dict[str, Any] = {"kind": next(kind for kind, made in KINDS.items() if type(stimulus) is made)}
            for name, value in vars(stimulus).items():
                if isinstance(value, np.ndarray):
                    arrays[f"{number}_{name}"] = value
                else:
                    note[name] = value
            notes.append(note)
        return notes, arrays

    @classmethod
    def read(cls, notes: list[dict[str, Any]], arrays: Mapping[str, NDArray[Any]]) -> Stimuli:
        """What was written. KeyError, TypeError, AttributeError: something else."""
        bound = []
        for number, note in enumerate(notes):
            values = {name: value for name, value in note.items() if name != "kind"}
            values |= {name.removeprefix(f"{number}_"): array for name, array in arrays.items() if name.startswith(f"{number}_")}
            bound.append(KINDS[note["kind"]](**values))
        return cls(bound)
