"""The tables as grown, or as read from an export, into a connectome."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import Area, Connectome, Rules, Settings
from gpu_npu.errors import NetworkError

from .pack import Packed, pack_synapses
from .report import Report
from .tables import NO_LIMIT, NeuronTable, SynapseTable


def build(
    neurons: NeuronTable,
    synapses: SynapseTable,
    areas: Mapping[int, Area],
    report: Report,
    *,
    rules: str = "feagi-2.6",
    fractions: str = "scale",
    delays: str = "one",
) -> Connectome:
    """The connectome, validated; what had to be changed for it is counted in the report.

    - weights and psps: see `pack_synapses` for `fractions`; a negative psp turns the synapse's type.
    - delays above one burst: taken as one (delays="one"), or a NetworkError ("refuse").
    - leak coefficients and excitabilities are brought into 0..1.
    """
    _delays(synapses, delays, report)
    driven = np.array([row for row, area in areas.items() if area.mp_driven_psp], np.uint32)
    packed = pack_synapses(
        synapses.weight,
        synapses.psp,
        synapses.inhibitory,
        fractions=fractions,
        mp_driven=np.isin(neurons.area, driven)[synapses.source],
        narrow=not all(area.psp_uniform for area in areas.values()),
        target=synapses.target,
    )
    _note_packing(packed, report)
    network = Connectome(
        len(neurons),
        len(synapses),
        weight_dtype=packed.weight.dtype,
        psp_dtype=packed.psp.dtype,
        settings=Settings(Rules.preset(rules), contribution_scale=packed.scale),
        areas=areas,
    )
    network.add_neurons(
        len(neurons),
        threshold=neurons.threshold,
        threshold_limit=np.where(neurons.threshold_limit == NO_LIMIT, np.float32(np.inf), neurons.threshold_limit),
        leak_coefficient=_leaks(neurons.leak_coefficient, report),
        refractory_period=neurons.refractory_period,
        excitability=np.clip(neurons.excitability, 0, 1),
        consecutive_fire_limit=neurons.consecutive_fire_limit,
        snooze_period=neurons.snooze_period,
        mp_charge_accumulation=neurons.mp_charge_accumulation,
        cortical_area=neurons.area,
        coordinates=np.stack([neurons.x, neurons.y, neurons.z], axis=1),
    )
    network.add_synapses(synapses.source, synapses.target, packed.weight, packed.psp, packed.inhibitory)
    network.validate()
    return network


def _delays(synapses: SynapseTable, delays: str, report: Report) -> None:
    late = int(np.count_nonzero(synapses.delay > 1))
    report.delayed_synapses = late
    if late:
        text = f"{late:,} synapses have a delay above one burst, the longest {int(synapses.delay.max())}"
        if delays == "refuse":
            raise NetworkError(text, python="delays='one' takes them as one")
        report.warn(f"{text}; they are taken as one")


def _leaks(leak: NDArray[np.float32], report: Report) -> NDArray[np.float32]:
    above, below = int(np.count_nonzero(leak > 1)), int(np.count_nonzero(leak < 0))
    report.leaks_clamped = above + below
    if above:
        report.warn(f"{above:,} neurons have a leak coefficient above 1 (up to {leak.max():g}), taken as 1")
    if below:
        report.warn(f"{below:,} neurons have a leak coefficient below 0 (down to {leak.min():g}), taken as 0")
    return np.clip(leak, 0, 1)


def _note_packing(packed: Packed, report: Report) -> None:
    counts = packed.counts
    report.negative_psps = counts["negative_psp"]
    report.weights_rounded, report.psps_rounded = counts["weight_rounded"], counts["psp_rounded"]
    report.weight_unit, report.psp_unit = packed.weight_unit, packed.psp_unit
    for what, unit in (("weight", packed.weight_unit), ("psp", packed.psp_unit)):
        fractional, over, rounded = counts[f"fractional_{what}"], counts[f"{what}_over"], counts[f"{what}_rounded"]
        if fractional or over or rounded:
            end = f"{rounded:,} were rounded" if rounded else "all are exact"
            report.warn(f"{fractional:,} {what}s have fractions, {over:,} are above 65,535; stored in units of {unit:g}, {end}")
    if counts["negative_psp"]:
        report.warn(f"{counts['negative_psp']:,} synapses have a negative psp: their type is turned")
