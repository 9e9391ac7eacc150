"""What a run shows that its user should know: nothing driven, nothing delivered, activity that feeds itself, input not used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gpu_npu import NPU, Connectome, FeagiRule
from gpu_npu.connectome import SynapseSource
from gpu_npu.objects import one_line

from .activity import Activity
from .result import Note
from .stimuli import Random, Scheduled, Stimuli

RUNAWAY = 0.2
"""Share of the neurons: where more fire in each burst, and were not driven to, activity feeds itself."""
RATE = 0.01
"""Of the stimulus that is proposed where nothing drives a network."""


class Totals(NamedTuple):
    """What a run added up to, as far as the findings need it."""

    bursts: int
    fired: int
    fired_last: int
    """In the last burst."""
    driven: int
    """Potentials injected and power neurons driven, summed over bursts."""
    delivered: int
    """Synaptic events."""
    power: int
    """Power neurons."""

    def __repr__(self) -> str:
        return one_line(self)


def findings(
    network: Connectome, synapses: Iterable[SynapseSource], stimuli: Stimuli, totals: Totals, activity: Activity
) -> Iterator[Note]:
    """What to tell of a run; `network` as it was loaded, with these synapses, which are read where they are needed."""
    yield from _unused(stimuli, totals.bursts)
    if not totals.bursts:
        return
    if not totals.fired:
        yield _silence(network, synapses, stimuli, totals)
    elif totals.fired > totals.fired_last and not totals.delivered:
        count = sum(source.total for source in synapses)
        which = f"none of the {count:,} synapses leaves a neuron that fired" if count else "the network has no synapses"
        yield Note(f"nothing was delivered: {which}")
    share = _late_share(activity, network.neuron_count)
    if share > RUNAWAY and totals.fired > 2 * totals.driven:
        strength = _round_up(mean_strength(network, synapses))
        yield Note(
            f"activity feeds itself: {share:.0%} of the neurons fired in each burst of the run's second half, far more than were driven;"
            f" the synapses of a neuron bring {strength:,g} in all, the median threshold is {_threshold(network):,g}",
            python="raise the thresholds (Connectome.write), or lower the weights",
            command=f"--threshold {strength:.15g} would hold it",
        )


def bounds_reached(npu: NPU) -> Iterator[Note]:
    """Whether weights stopped at a bound that is there for the sums and not for the model."""
    rules = [rule for rule in npu.plasticity.values() if isinstance(rule, FeagiRule) and rule.keeps_sums]
    if not rules:
        return
    synapses, area = npu.synapse_array, npu.get_parameter("cortical_area")
    source, target = area[synapses.source], area[synapses.target]
    reached = sum(
        int(np.count_nonzero((source == rule.source_area) & (target == rule.target_area) & (synapses.weight >= rule.max_weight)))
        for rule in rules
    )
    if reached:
        bound = max(rule.max_weight or 0.0 for rule in rules)
        yield Note(f"{reached:,} plastic synapses have the largest weight that sums have room for, {bound:,g}; FEAGI has no such bound")


def _unused(stimuli: Stimuli, bursts: int) -> Iterator[Note]:
    """Stimuli, or parts of them, that inject nothing or nothing but 0."""
    for number, stimulus in enumerate(stimuli.bound, 1):
        what = f"stimulus {number} of {len(stimuli.bound)}"
        potentials = stimulus.potentials if isinstance(stimulus, Scheduled) else stimulus.potential
        if not len(stimulus.neurons):
            yield Note(f"{what} names no neurons, so it injects nothing")
        elif isinstance(stimulus, Random) and stimulus.cumulative[0] >= 1:
            yield Note(f"{what} injects nothing: its rate is 0")
        elif not np.any(potentials):
            yield Note(f"{what} changes nothing: it injects potentials of 0")
        elif isinstance(stimulus, Scheduled) and bursts and (late := int(np.count_nonzero(stimulus.bursts > bursts))):
            items = f"{late:,} of {len(stimulus.bursts):,} scheduled injections"
            yield Note(f"{items} are for bursts after burst {bursts:,}, the last of this run")


def _silence(network: Connectome, synapses: Iterable[SynapseSource], stimuli: Stimuli, totals: Totals) -> Note:
    neurons = network.neurons
    valid = neurons.valid
    if not network.neuron_count:
        return Note("nothing can fire: the network has no neurons")
    if not neurons.excitability[valid].any():
        return Note("nothing can fire: the excitability of every neuron is 0")
    if not np.isfinite(neurons.threshold[valid]).any():
        return Note("nothing can fire: no neuron has a finite threshold")
    if stimuli or totals.power:
        lowest = float(neurons.threshold[valid].min())
        drive = f"{totals.driven:,} times a neuron was driven ({totals.power:,} power neurons, by {network.settings.power_amount:g})"
        return Note(f"nothing fired: {drive}, and the lowest threshold is {lowest:g}")
    threshold, strength = _threshold(network), _round_up(mean_strength(network, synapses))
    raised = strength > threshold
    potential = strength if raised else threshold
    return Note(
        "nothing drives this network: it has no power neurons and nothing was injected",
        python=f"Rate('all', {RATE}, {potential:.15g}) would" + (f", with thresholds of about {strength:.15g}" if raised else ""),
        command=f"try --rate all:{RATE}:{potential:.15g}" + (f" --threshold {strength:.15g}" if raised else ""),
    )


def mean_strength(network: Connectome, synapses: Iterable[SynapseSource]) -> float:
    """What the excitatory synapses of a neuron deliver in all when it fires, the mean of all neurons.

    With thresholds above it a spike makes less than one other on average, so activity does not feed itself.
    """
    n = network.neuron_capacity
    amount, degree = np.zeros(n), np.zeros(n)
    for source in synapses:
        for batch in source:
            excites = batch.weight.astype(np.float64) * batch.psp * ~batch.inhibitory
            amount += np.bincount(batch.source, excites, minlength=n)
            degree += np.bincount(batch.source, minlength=n)
    apart = [area for area, flags in network.areas.items() if not flags.psp_uniform]
    if apart:
        amount = np.where(np.isin(network.neurons.cortical_area, apart), amount / np.maximum(degree, 1), amount)
    return float(amount.sum()) * network.settings.contribution_scale / max(network.neuron_count, 1)


def _threshold(network: Connectome) -> float:
    """The median of the thresholds above 0 that are finite, rounded up; 1 where there is none."""
    threshold = network.neurons.threshold[network.neurons.valid]
    found = threshold[np.isfinite(threshold) & (threshold > 0)]
    return _round_up(float(np.median(found))) if found.size else 1.0


def _round_up(value: float) -> float:
    """To two digits."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(round(value / unit, 6)) * unit:.3g}")


def _late_share(activity: Activity, neurons: int) -> float:
    """Of the neurons that fired in each burst of the second half."""
    half = activity.counts[len(activity.counts) // 2 :]
    bursts = activity.bursts - activity.width * (len(activity.counts) - len(half))
    return sum(half) / max(bursts * neurons, 1)
