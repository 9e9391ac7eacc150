"""From mapping rules to synapses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_npu.errors import CapacityError
from gpu_npu.io.budget import SMALL, gib
from gpu_npu.objects import OneLine

from .areas import CorticalArea, Rule
from .morphologies import AT_RUN_TIME, CORE, TO_FIRST, Morphology, Part, Unusable, part_count, parts_of, voxel_pairs
from .neuroembryogenesis import first_neurons
from .report import Report
from .tables import SynapseTable

PART_BYTES = 8192
"""Of the memory limit, for each vector or pattern that a rule applies: it takes some tens of microseconds."""


@dataclass(frozen=True, repr=False)
class GrownMapping(OneLine):
    """A rule between two areas, and what came of it."""

    source: int
    """Row of the source area."""
    target: int
    """Row of the target area; -1: there is none."""
    rule: Rule
    applied: bool
    """False: FEAGI does not apply it."""
    synapses: int

    @property
    def plastic(self) -> bool:
        """Whether FEAGI's plasticity acts on it; the rule has the parameters."""
        return self.rule.plastic


@dataclass(frozen=True, repr=False)
class Wiring(OneLine):
    """Everything that synapses are made from."""

    areas: Sequence[CorticalArea]
    morphologies: Mapping[str, Morphology]
    seed: int
    abandon: bool
    """A bad rule takes the rest of its source area's rules with it, as in FEAGI."""

    def rows(self) -> dict[bytes, int]:
        """Id of an area -> its row."""
        return {area.id: row for row, area in enumerate(self.areas)}


@dataclass(frozen=True, repr=False)
class PlannedRule(OneLine):
    """A rule from the area in row `source` to the one in row `target` (-1: there is none)."""

    source: int
    target: int
    rule: Rule
    applied: bool
    bound: int
    """It makes at most so many synapses."""


def plan(wiring: Wiring, report: Report, memory_limit: int) -> list[PlannedRule]:
    """What is to be done with every rule; nothing is made, everything is counted.

    Rules that cannot be applied, and those that they take with them, are told in the report. CapacityError: more vectors and
    patterns are to be applied than the limit allows.
    """
    rows, planned = wiring.rows(), []
    _check_parts(wiring, memory_limit)
    for source, area in enumerate(wiring.areas):
        bad: str | None = None
        lost: list[Rule] = []
        for rule in area.rules:
            target = rows.get(rule.target, -1) if rule.target is not None else -1
            name = f"{area.title} -> {rule.target_text:.60} by {rule.morphology:.60}"
            if bad is not None:
                lost.append(rule)
            elif target < 0:
                report.absent_targets += 1
                report.warn(f"mapping {name}: there is no area {rule.target_text!r:.60}; the mapping makes no synapses")
            else:
                try:
                    bound = _bound(wiring, source, target, rule)
                except Unusable as error:
                    report.warn(f"mapping {name}: {error}; it makes no synapses")
                    bad = str(error) if wiring.abandon else None
                else:
                    if rule.morphology in AT_RUN_TIME or (rule.morphology not in CORE and not _makes_synapses(wiring, rule)):
                        report.warn(f"morphology {rule.morphology} makes no synapses in FEAGI 2.6")
                    planned.append(PlannedRule(source, target, rule, True, bound))
                    continue
            planned.append(PlannedRule(source, target, rule, False, 0))
        if lost:
            report.lost_rules += len(lost)
            names = ", ".join(f"{rule.target_text:.60} by {rule.morphology:.60}" for rule in lost[:10])
            more = f" and {len(lost) - 10:,} more" if len(lost) > 10 else ""
            report.warn(f"area {area.title}: FEAGI abandons an area's mappings at the first bad one ({bad}); lost here: {names}{more}")
    return planned


def _check_parts(wiring: Wiring, memory_limit: int) -> None:
    """CapacityError where rules together apply more vectors and patterns than can be gone through in seconds."""
    parts = sum(part_count(rule.morphology, wiring.morphologies) for area in wiring.areas for rule in area.rules)
    rules = sum(len(area.rules) for area in wiring.areas)
    if parts > rules and parts * PART_BYTES > max(memory_limit, SMALL):
        raise CapacityError(
            f"{rules:,} mapping rules apply {parts:,} vectors and patterns; a limit of {gib(memory_limit)} of memory allows"
            f" {memory_limit // PART_BYTES:,}",
            python=f"memory_limit={parts * PART_BYTES} allows it",
        )


def _makes_synapses(wiring: Wiring, rule: Rule) -> bool:
    return wiring.morphologies[rule.morphology].kind in ("vectors", "patterns")


def _bound(wiring: Wiring, source: int, target: int, rule: Rule) -> int:
    """At most so many synapses come of a rule. Unusable: it cannot be applied."""
    if rule.delay == 0:
        raise Unusable("synaptic_delay_bursts is 0; 1 is the least")
    if (rule.plastic or rule.morphology == "associative_memory") and rule.window == 0:
        raise Unusable("it is plastic and its plasticity_window is 0")
    if rule.fault:
        raise Unusable(rule.fault)
    return sum(part.count for part in _parts(wiring, source, target, rule)) * wiring.areas[source].neurons_per_voxel


def _parts(wiring: Wiring, source: int, target: int, rule: Rule) -> list[Part]:
    from_, to = wiring.areas[source], wiring.areas[target]
    memories = from_.id[:1] == to.id[:1] == b"m"
    return parts_of(rule.morphology, wiring.morphologies, from_.dimensions, to.dimensions, between_memories=memories)


def grow_synapses(
    wiring: Wiring, planned: Sequence[PlannedRule], progress: Callable[[int, int], object] | None = None
) -> tuple[SynapseTable, tuple[GrownMapping, ...]]:
    """All synapses in canonical order, and the mappings with how many each of them made."""
    first = first_neurons(wiring.areas)
    sources, targets, mappings = [], [], []
    for done, one in enumerate(planned):
        count = 0
        if one.applied:
            s, t = _pairs(wiring, first, one)
            sources.append(s)
            targets.append(t)
            count = len(s)
        mappings.append(GrownMapping(one.source, one.target, one.rule, one.applied, count))
        if progress is not None:
            progress(done + 1, len(planned))
    made = [mapping for mapping in mappings if mapping.synapses]
    counts = [mapping.synapses for mapping in made]
    none = np.zeros(0, np.uint32)
    synapses = SynapseTable(
        source=np.concatenate([none, *sources]),
        target=np.concatenate([none, *targets]),
        weight=np.repeat(np.array([abs(mapping.rule.psc) for mapping in made], np.float32), counts),
        psp=np.repeat(np.array([wiring.areas[mapping.source].psp for mapping in made], np.float32), counts),
        inhibitory=np.repeat(np.array([mapping.rule.psc < 0 for mapping in made], np.bool_), counts),
        delay=np.repeat(np.array([mapping.rule.delay for mapping in made], np.uint8), counts),
    )
    return synapses.sorted(), tuple(mappings)


def _pairs(wiring: Wiring, first: Sequence[int], one: PlannedRule) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Neuron ids: every neuron of the source's voxel, and one of the target's voxel."""
    source, target, rule = one.source, one.target, one.rule
    from_, to = wiring.areas[source], wiring.areas[target]
    s, t = voxel_pairs(_parts(wiring, source, target, rule), from_.dimensions, to.dimensions)
    k = 0 if rule.morphology in TO_FIRST else to.neurons_per_voxel - 1
    n = from_.neurons_per_voxel
    ids = (first[source] + s[:, None] * n + np.arange(n)).astype(np.uint32).ravel()
    onto = np.repeat((first[target] + t * to.neurons_per_voxel + k).astype(np.uint32), n)
    if rule.attractivity < 100:
        # A stream of its own for each rule: a change of one mapping leaves the others as they were.
        rng = np.random.default_rng([wiring.seed, *from_.id, *to.id, rule.index])
        keep = rng.random(len(ids)) * 100 < rule.attractivity
        ids, onto = ids[keep], onto[keep]
    return ids, onto
