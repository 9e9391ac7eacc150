"""Experiments as they are done with connectomes: neurons are activated at a rate, others silenced, over and over; who fires how often?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gpu_npu import NPU, BurstResult, Connectome, SynapseBatch
from gpu_npu.arrays import F64, I64, U32, Flags
from gpu_npu.checks import check_integer, check_kind, check_listed, check_real
from gpu_npu.connectome import SynapseSource, SynapseWrapper
from gpu_npu.errors import NetworkError
from gpu_npu.objects import OneLine
from gpu_npu.recordings.spikes import Spikes

from .run import Place
from .stimuli import Poisson, Random, Stimuli
from .targets import Target, neurons_of

BURSTS_AT_A_TIME = 256
MOST_SPIKES = 2**28
"""Of all trials together, as they are kept in memory."""


@dataclass(frozen=True, repr=False)
class Experiment(OneLine):
    """What is done to a network.

    activate : pairs of neurons and the rate, in Hz, at which each receives `potential`, as a Poisson process.
    silence : neurons whose synapses deliver nothing; they may fire.
    ms : how long a burst lasts; the engine has no clock, so this is what the rates and the times of spikes are made with.
    trials : each draws anew; trial i draws as a run with the network's random seed + i.
    """

    activate: tuple[tuple[Target, float], ...] = ()
    silence: tuple[Target, ...] = ()
    bursts: int = 1000
    trials: int = 1
    ms: float = 1.0
    potential: float = 1.0
    name: str = "experiment"

    def __post_init__(self) -> None:
        check_integer(self.bursts, "bursts", 1)
        check_integer(self.trials, "trials", 1)
        if check_real(self.ms, "ms", 0.0, math.inf) in (0.0, math.inf):
            raise NetworkError(f"ms: {self.ms:g} is no duration of a burst")


@dataclass(frozen=True, repr=False, eq=False)
class Trials(OneLine):
    """What came of an experiment."""

    experiment: Experiment
    spikes: Spikes
    rates: F64
    """Hz of each neuron, the mean of all trials."""
    backend: str

    def rate_by(self, column: str) -> dict[str, float]:
        """The mean rate of the neurons that have each value of a column of annotations. NetworkError: no such column."""
        columns = self.spikes.annotations.columns
        if column not in columns:
            raise NetworkError(f"{column!r} is no column of this network's neurons; its columns: {', '.join(columns) or 'none'}")
        values, code = np.unique(columns[column], return_inverse=True)
        means = np.bincount(code, self.rates[: len(code)]) / np.bincount(code)
        return dict(zip(values.tolist(), means.tolist(), strict=True))


def silenced(network: Connectome, targets: tuple[Target, ...]) -> Connectome:
    """A copy of a network without the synapses that leave these neurons. NetworkError and its like: those of `neurons_of`."""
    silent, copy = _silent(network, targets), network.copy()
    copy.synapses.valid[silent[copy.synapses.source]] = False
    return copy


def _silent(network: Connectome, targets: tuple[Target, ...]) -> Flags:
    """Whether each neuron is one of these."""
    silent: Flags = np.zeros(check_kind(network, Connectome, "network").neuron_capacity, np.bool_)
    for target in check_listed(targets, "silence"):
        silent[neurons_of(network, target, "silence")] = True
    return silent


class Silenced(SynapseWrapper):
    """The same of a source: it is read once to be counted. Errors: those of `neurons_of`, and those of reading it."""

    def __init__(self, network: Connectome, targets: tuple[Target, ...], source: SynapseSource) -> None:
        super().__init__(check_kind(source, SynapseSource, "source"))
        self._silent = _silent(network, targets)
        self._total = sum(len(batch) for batch in self)

    @property
    def total(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[SynapseBatch]:
        for batch in self._source:
            yield batch.take(~self._silent[batch.source])


def experiment(network: Connectome, plan: Experiment, place: Place | None = None) -> Trials:
    """Run all trials of an experiment. Errors: those of `neurons_of`, `Poisson` and `NPU.from_connectome`."""
    check_kind(network, Connectome, "network"), check_kind(plan, Experiment, "plan")
    place = Place() if place is None else check_kind(place, Place, "place")
    treated = silenced(network, plan.silence) if plan.silence else network
    stimuli = Stimuli.bind(treated, [Poisson(target, hertz * plan.ms * 1e-3, plan.potential) for target, hertz in plan.activate])
    bursts, trials, neurons = list[I64](), list[I64](), list[U32]()
    kept = 0
    with NPU.from_connectome(treated, backend=place.backend, device=place.device, annotate=place.annotate) as npu:
        backend, seed = npu.backend, npu.settings.random_seed
        for trial in range(plan.trials):
            npu.reset()
            of_trial = (seed + trial) % 2**32
            npu.set_settings(replace(npu.settings, random_seed=of_trial))
            drawn = Stimuli([replace(one, seed=of_trial) for one in stimuli.bound if isinstance(one, Random)])
            for burst, ids in _fired(npu, drawn, plan.bursts):
                kept += len(ids)
                if kept > MOST_SPIKES:
                    raise NetworkError(f"more than {MOST_SPIKES:,} spikes in all; take fewer trials or bursts, or raise the thresholds")
                bursts.append(np.full(len(ids), burst, np.int64))
                trials.append(np.full(len(ids), trial, np.int64))
                neurons.append(ids)
    none: I64 = np.zeros(0, np.int64)
    fired: U32 = np.concatenate([np.zeros(0, np.uint32), *neurons])
    spikes = Spikes(np.concatenate([none, *bursts]), np.concatenate([none, *trials]), fired, plan.ms, network.annotations, plan.name)
    seconds = plan.trials * plan.bursts * plan.ms * 1e-3
    return Trials(plan, spikes, np.bincount(fired, minlength=network.neuron_capacity) / seconds, backend)


def _fired(npu: NPU, stimuli: Stimuli, bursts: int) -> Iterator[tuple[int, U32]]:
    """Each burst of a trial in which neurons fired, and their ids."""
    found: list[tuple[int, U32]] = []

    def keep(result: BurstResult) -> None:
        if result.neuron_count:
            found.append((result.burst, result.fired_neurons.copy()))

    for first in range(1, bursts + 1, BURSTS_AT_A_TIME):
        last = min(first + BURSTS_AT_A_TIME, bursts + 1)
        for burst in range(first, last):
            for neurons, potentials in stimuli.before(burst):
                npu.schedule(np.full(len(neurons), burst), neurons, potentials)
        npu.run(last - first, watch=keep)
        yield from found
        found.clear()
