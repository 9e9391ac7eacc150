"""The tables as grown, or as read from an export, into a connectome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import Area, Connectome, Rules, Settings
from gpu_npu.errors import NetworkError

from .pack import MODES, Packed, pack_synapses
from .report import Report
from .tables import NO_LIMIT, NeuronTable, SynapseTable


def one_of(name: str, value: str, *allowed: str) -> None:
    """NetworkError unless an option has one of the allowed values."""
    if value not in allowed:
        raise NetworkError(f"{name}: {value!r} is not one of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True)
class NetworkOptions:
    """How FEAGI's values become those of a network. NetworkError: a value that is none of these.

    rules : preset of the network's rules, "feagi-2.6" or "feagi-2.6-fp32" (any of `Rules.preset`).
    fractions : for weights and psps that are no whole numbers up to 65,535: "scale" (one unit for all, exact where there is
        such a unit), "round" or "refuse" (NetworkError); see `pack_synapses`.
    delays : "one" takes delays above one burst as one, "refuse" raises NetworkError.
    """

    rules: str = "feagi-2.6"
    fractions: str = "scale"
    delays: str = "one"

    def __post_init__(self) -> None:
        Rules.preset(self.rules)
        one_of("fractions", self.fractions, *MODES)
        one_of("delays", self.delays, "one", "refuse")


DEFAULTS = NetworkOptions()


def build(
    neurons: NeuronTable,
    synapses: SynapseTable,
    areas: Mapping[int, Area],
    report: Report,
    options: NetworkOptions = DEFAULTS,
) -> Connectome:
    """The connectome, validated; what had to be changed for it is counted in the report.

    A negative psp turns the synapse's type; leak coefficients and excitabilities are brought into 0..1. NetworkError: what an
    option refuses.
    """
    _delays(synapses, options.delays, report)
    driven = np.array([row for row, area in areas.items() if area.mp_driven_psp], np.uint32)
    packed = pack_synapses(
        synapses.weight,
        synapses.psp,
        synapses.inhibitory,
        fractions=options.fractions,
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
        settings=Settings(Rules.preset(options.rules), contribution_scale=packed.scale),
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
