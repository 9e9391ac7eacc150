"""A genome into a running brain's connectome, as FEAGI 2.6 grows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpu_npu.checks import check_choice, check_integer, check_path
from gpu_npu.connectome import Area, Connectome
from gpu_npu.connectome.fields import MAX_NEURONS
from gpu_npu.errors import CapacityError, NetworkError
from gpu_npu.io.budget import allowance, gib
from gpu_npu.objects import OneLine

from .areas import REAL_LIMIT, CorticalArea
from .network import DEFAULTS, NetworkOptions, build
from .neuroembryogenesis import first_neurons, grow_neurons
from .plasticity import feagi_rules
from .reader import read_genome
from .report import Report
from .synaptogenesis import GrownMapping, PlannedRule, Wiring, grow_synapses, plan
from .tables import NeuronTable, SynapseTable

NEURON_BYTES = 200
SYNAPSE_BYTES = 120
"""Memory that growing takes for each of them: tables, what is needed on the way, and the connectome."""
OBJECT_LIMIT = 8 * 2**30
"""Bytes that growing a genome may take which is no file but an object, at most."""

Progress = Callable[[str, int, int], object]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, eq=False, repr=False)
class Grown(OneLine):
    """A brain as it grew."""

    connectome: Connectome
    neurons: NeuronTable
    synapses: SynapseTable
    areas: tuple[CorticalArea, ...]
    """The area with id i in the connectome is areas[i]."""
    mappings: tuple[GrownMapping, ...]
    report: Report
    title: str
    timestep: float
    """Seconds of a burst that the genome asks for."""


def grow(
    genome: str | os.PathLike[str] | Mapping[str, Any],
    options: NetworkOptions = DEFAULTS,
    *,
    seed: int = 0,
    bad_rules: str = "abandon",
    absent_targets: str = "skip",
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Grown:
    """Grow a genome, from its file or from the object in it.

    seed: for mappings of which a share is drawn (`synapse_attractivity`).
    bad_rules: a mapping rule that cannot be applied takes the rest of its source area's rules with it, as in FEAGI
    ("abandon"), or not ("skip"). absent_targets: mappings to areas that do not exist make nothing, as in FEAGI ("skip"),
    or are an error ("refuse"). memory_limit: bytes; a genome that needs more is refused. None: what a file of its size may take
    (gpu_npu/io/budget.py), or OBJECT_LIMIT.

    FileFormatError: the genome is damaged, or has a value that its key cannot have. CapacityError: it is too large.
    NetworkError: something that was to be refused. OSError: the file cannot be read.
    """
    check_choice(bad_rules, "bad_rules", "abandon", "skip")
    check_choice(absent_targets, "absent_targets", "skip", "refuse")
    seed = check_integer(seed, "seed")
    report = Report()
    if memory_limit is None:
        is_object = isinstance(genome, Mapping)
        memory_limit = min(OBJECT_LIMIT, allowance(2**40)) if is_object else allowance(check_path(genome, "genome").stat().st_size)
    read = read_genome(genome, report, memory_limit)
    _check_neurons(read.areas, memory_limit)
    wiring = Wiring(read.areas, read.morphologies, seed, abandon=bad_rules == "abandon")
    planned = plan(wiring, report, memory_limit)
    absent = [one for one in planned if one.target < 0]
    if absent and absent_targets == "refuse":
        raise NetworkError(
            f"area {read.areas[absent[0].source].title}: its mapping by {absent[0].rule.morphology} goes to"
            f" {absent[0].rule.target_text!r}, which is no area of this genome"
            f" ({len(absent):,} rules do such a thing)",
            python="absent_targets='skip' leaves them out",
        )
    neurons, bound = first_neurons(read.areas)[-1], sum(one.bound for one in planned)
    size = neurons * NEURON_BYTES + bound * SYNAPSE_BYTES
    if bound and size > memory_limit:
        raise CapacityError(
            f"growing {neurons:,} neurons and up to {bound:,} synapses takes about {gib(size)}, more than the limit of"
            f" {gib(memory_limit)}; {_largest(read.areas, planned)}",
            python=f"memory_limit={size} allows it",
        )
    if progress is not None:
        progress("neurons", 0, neurons)
    table = grow_neurons(read.areas)
    if progress is not None:
        progress("neurons", neurons, neurons)
    synapses, mappings = grow_synapses(wiring, planned, None if progress is None else lambda done, all_: progress("mappings", done, all_))
    sources = {mapping.source for mapping in mappings if mapping.synapses}
    flags = {
        row: Area(
            area.name or area.text,
            psp_uniform=area.psp_uniform,
            mp_driven_psp=area.mp_driven_psp,
            power=area.is_power,
            degeneration=_degeneration(area) if row in sources else 0.0,
        )
        for row, area in enumerate(read.areas)
    }
    _note_run_time(read.areas, mappings, report)
    connectome = build(table, synapses, flags, report, options, feagi_rules(read.areas, mappings, report))
    return Grown(connectome, table, synapses, read.areas, mappings, report, read.title, read.timestep)


def _check_neurons(areas: tuple[CorticalArea, ...], memory_limit: int) -> None:
    """CapacityError naming the largest area, before anything is made."""
    total = sum(area.neuron_count for area in areas)
    if total <= MAX_NEURONS and total * NEURON_BYTES <= memory_limit:
        return
    area = max(areas, key=lambda area: area.neuron_count)
    x, y, z = area.dimensions
    size = f"the largest is area {area.title}: {x} x {y} x {z} voxels of {area.neurons_per_voxel}, {area.neuron_count:,} neurons"
    if total > MAX_NEURONS:
        raise CapacityError(f"{total:,} neurons are more than {MAX_NEURONS:,}, the most that synapses can name; {size}")
    raise CapacityError(
        f"growing {total:,} neurons takes about {gib(total * NEURON_BYTES)}, more than the limit of {gib(memory_limit)}; {size}",
        python=f"memory_limit={total * NEURON_BYTES} allows it",
    )


def _note_run_time(areas: tuple[CorticalArea, ...], mappings: tuple[GrownMapping, ...], report: Report) -> None:
    """What FEAGI does while a brain runs, and this network does not."""
    report.plastic_mappings = sum(mapping.plastic and mapping.synapses > 0 for mapping in mappings)
    memories = [area.title for area in areas if area.memory or area.id[:1] == b"m"]
    if memories:
        report.warn(f"{len(memories):,} areas are memories, and form no patterns here as they do in FEAGI: {', '.join(memories)}")
    driven = sum(area.mp_driven_psp for area in areas)
    if driven:
        report.warn(f"{driven:,} areas deliver the potential at which they fired; here it is clamped to 0..255")


def _degeneration(area: CorticalArea) -> float:
    """A psp below 0, which becomes an inhibition, is 0 after the first firing."""
    return 0.0 if area.degeneration <= 0 else area.degeneration if area.psp >= 0 else REAL_LIMIT


def _largest(areas: tuple[CorticalArea, ...], planned: list[PlannedRule]) -> str:
    one = max(planned, key=lambda one: one.bound)
    return f"the largest mapping is {areas[one.source].title} -> {areas[one.target].title} by {one.rule.morphology}: up to {one.bound:,}"
