"""From plastic mapping rules to the FeagiRules of a network: one a pair of areas, as FEAGI registers them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_npu.connectome import FeagiRule

from .areas import CorticalArea, Rule
from .report import Report
from .synaptogenesis import GrownMapping

MODES = ("stdp",)
"""Of plasticity that FeagiRules cover."""
MOST = 255
"""A step of weight ends here, before it is multiplied by plasticity_eta."""


def feagi_rules(areas: Sequence[CorticalArea], mappings: Sequence[GrownMapping], report: Report) -> tuple[FeagiRule, ...]:
    """The rules that act while the brain runs, by source and target area; their bounds are those of the genome.

    The last plastic mapping rule of a pair of areas says how all synapses of the pair learn; where it is frozen, they do not.
    """
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
        if _covered(rule) and not rule.frozen
    )


def _covered(rule: Rule) -> bool:
    return rule.mode in MODES and rule.morphology != "associative_memory"


def steps(rule: Rule) -> tuple[float, float]:
    """How far a weight goes up and down: fl32(clamp(constant * multiplier, 0, 255) * eta), all but eta truncated to integers."""
    constant, eta = int(rule.constant), np.float32(rule.eta)
    up, down = (min(max(constant * int(multiplier), 0), MOST) for multiplier in (rule.ltp, rule.ltd))
    return float(np.float32(up) * eta), float(np.float32(down) * eta)
