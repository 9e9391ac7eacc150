"""From plastic mapping rules to the FeagiRules of a network: one a pair of areas, as FEAGI registers them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gpu_npu.connectome import Connectome, FeagiRule
from gpu_npu.errors import SumOverflowError

from .areas import CorticalArea, Rule
from .report import Report
from .synaptogenesis import GrownMapping

MODES = ("stdp",)
"""Of plasticity that FeagiRules cover."""
MOST = 255
"""A step of weight ends here, before it is multiplied by plasticity_eta."""
ROOM = 2.0**30
"""For what may arrive at a neuron in a burst, of one sign, where weights have no bound: half of what sums hold."""


def feagi_rules(areas: Sequence[CorticalArea], mappings: Sequence[GrownMapping], report: Report) -> tuple[FeagiRule, ...]:
    """The rules that act while the brain runs, by source and target area; their bounds are those of the genome.

    The last plastic mapping rule of a pair of areas says how all synapses of the pair learn; where it is frozen, they do not.
    Pairs without synapses have no rule, nor have those whose weights it would leave as they are.
    """
    wired = {(mapping.source, mapping.target) for mapping in mappings if mapping.synapses}
    last: dict[tuple[int, int], Rule] = {}
    for mapping in mappings:
        if mapping.applied and mapping.plastic:
            last[mapping.source, mapping.target] = mapping.rule
    told = [f"{areas[source].title} -> {areas[target].title}" for (source, target), rule in last.items() if not _covered(rule)]
    if told:
        report.warn(f"plasticity of these pairs of areas is of kinds that are not computed here, and left out: {', '.join(told)}")
    return tuple(
        FeagiRule(source, target, rule.window, *steps(rule), rule.max_weight)
        for (source, target), rule in sorted(last.items())
        if (source, target) in wired and _covered(rule) and not rule.frozen and (any(steps(rule)) or rule.max_weight is not None)
    )


def bounded(rules: Sequence[FeagiRule], network: Connectome, report: Report) -> tuple[FeagiRule, ...]:
    """The rules with a bound where FEAGI has none: the largest power of two for which no neuron of this network can be sent more
    than ROOM in a burst. SumOverflowError where that is below 1."""
    free = [rule for rule in rules if rule.max_weight is None and rule.up]
    if not free:
        return tuple(rules)
    synapses, area = network.synapses, network.neurons.cortical_area
    driven = np.isin(area, [row for row, flags in network.areas.items() if flags.mp_driven_psp])
    psp = np.where(driven[synapses.source], 255.0, synapses.psp.astype(np.float64))
    most, unbounded = synapses.weight.astype(np.float64), np.zeros(synapses.count, np.bool_)
    for rule in rules:
        pair = (area[synapses.source] == rule.source_area) & (area[synapses.target] == rule.target_area)
        if rule.max_weight is None:
            unbounded |= pair & bool(rule.up)
        else:
            most[pair] = np.maximum(most[pair], rule.max_weight)
    place, size = 2 * synapses.target.astype(np.int64) + synapses.inhibitory, 2 * network.neuron_capacity
    sent = np.bincount(place, np.where(unbounded, 0.0, most * psp), size)
    unit = np.bincount(place, np.where(unbounded, psp, 0.0), size)
    sharing = unit > 0
    limit = float(((ROOM - sent[sharing]) / unit[sharing]).min(initial=ROOM))
    if limit < 1:
        raise SumOverflowError(f"plastic weights without max_weight have room up to {limit:g} in a sum; give max_weight or lower psps")
    bound = 2.0 ** math.floor(math.log2(limit))
    report.warn(
        f"{len(free):,} pairs of areas learn without a max_weight in FEAGI; here their weights end at {bound:,g}, which sums have"
        " room for: a run tells when one reaches it"
    )
    return tuple(replace(rule, max_weight=bound, keeps_sums=True) if rule in free else rule for rule in rules)


def _covered(rule: Rule) -> bool:
    return rule.mode in MODES and rule.morphology != "associative_memory"


def steps(rule: Rule) -> tuple[float, float]:
    """How far a weight goes up and down: fl32(clamp(constant * multiplier, 0, 255) * eta), all but eta truncated to integers."""
    constant, eta = int(rule.constant), np.float32(rule.eta)
    up, down = (min(max(constant * int(multiplier), 0), MOST) for multiplier in (rule.ltp, rule.ltd))
    return float(np.float32(up) * eta), float(np.float32(down) * eta)
