"""The tables as grown, or as read from an export, into a connectome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U8, Counts
from gpu_npu.checks import check_choice
from gpu_npu.connectome import Area, Connectome, FeagiRule, Rules, Settings

from .plasticity import bounded
from .report import Report
from .tables import NO_LIMIT, NeuronTable, SynapseTable

MAX_UINT16 = 65535


@dataclass(frozen=True)
class NetworkOptions:
    """How FEAGI's values become those of a network. NetworkError: a value that is none of these.

    rules : preset of the network's rules, "feagi-2.6" or "feagi-2.6-fp32" (any of `Rules.preset`).
    delays : "keep" as they are, or "one" burst for all, with which every backend runs every genome.
    """

    rules: str = "feagi-2.6"
    delays: str = "keep"

    def __post_init__(self) -> None:
        Rules.preset(self.rules)
        check_choice(self.delays, "delays", "keep", "one")


DEFAULTS = NetworkOptions()


def build(
    neurons: NeuronTable,
    synapses: SynapseTable,
    areas: Mapping[int, Area],
    report: Report,
    options: NetworkOptions = DEFAULTS,
    plasticity: Sequence[FeagiRule] = (),
) -> Connectome:
    """The connectome, validated; what had to be changed for it is counted in the report.

    Weights and psps are integers where all are whole numbers up to 65,535, else float32, as are weights that rules change. A
    negative psp turns the synapse's type; leak coefficients and excitabilities are brought into 0..1, thresholds into what the
    rules can reach. NetworkError: what an option refuses. SumOverflowError: inputs that may be too large.
    """
    delay = _delays(synapses, options.delays, report)
    rules = Rules.preset(options.rules)
    weight, psp, negative = np.abs(synapses.weight), _counts(np.abs(synapses.psp)), synapses.psp < 0
    weight = weight if plasticity else _counts(weight)
    if any(area.degeneration for area in areas.values()):
        psp = psp.astype(np.float32)
    report.negative_psps = int(np.count_nonzero(negative))
    if report.negative_psps:
        report.warn(f"{report.negative_psps:,} synapses have a negative psp: their type is turned")
    network = Connectome(
        len(neurons), len(synapses), weight_dtype=weight.dtype, psp_dtype=psp.dtype, settings=Settings(rules), areas=areas
    )
    threshold, threshold_limit = _thresholds(neurons, rules, report)
    network.add_neurons(
        len(neurons),
        threshold=threshold,
        threshold_limit=threshold_limit,
        leak_coefficient=_leaks(neurons.leak_coefficient, report),
        refractory_period=neurons.refractory_period,
        excitability=np.clip(neurons.excitability, 0, 1),
        consecutive_fire_limit=neurons.consecutive_fire_limit,
        snooze_period=neurons.snooze_period,
        mp_charge_accumulation=neurons.mp_charge_accumulation,
        cortical_area=neurons.area,
        coordinates=np.stack([neurons.x, neurons.y, neurons.z], axis=1),
    )
    inhibitory = synapses.inhibitory ^ (synapses.weight < 0) ^ negative
    network.add_synapses(synapses.source, synapses.target, weight, psp, inhibitory, delay)
    network.set_plasticity(bounded(plasticity, network, report))
    network.validate()
    return network


def _delays(synapses: SynapseTable, delays: str, report: Report) -> U8 | int:
    late = int(np.count_nonzero(synapses.delay > 1))
    report.delayed_synapses = late
    if late and delays == "one":
        report.warn(f"{late:,} synapses have a delay above one burst, the longest {int(synapses.delay.max())}; they are taken as one")
    return synapses.delay if delays == "keep" else 1


def _leaks(leak: NDArray[np.float32], report: Report) -> NDArray[np.float32]:
    above, below = int(np.count_nonzero(leak > 1)), int(np.count_nonzero(leak < 0))
    report.leaks_clamped = above + below
    if above:
        report.warn(f"{above:,} neurons have a leak coefficient above 1 (up to {leak.max():g}), taken as 1")
    if below:
        report.warn(f"{below:,} neurons have a leak coefficient below 0 (down to {leak.min():g}), taken as 0")
    return np.clip(leak, 0, 1)


def _counts(values: F32) -> Counts:
    """The same values, none below 0, as the narrowest type that has them all."""
    if not values.size:
        return values.astype(np.uint8)
    if (values == np.floor(values)).all() and values.max() <= MAX_UINT16:
        return values.astype(np.uint8 if values.max() <= 255 else np.uint16)
    return values


def _thresholds(neurons: NeuronTable, rules: Rules, report: Report) -> tuple[F32, F32]:
    """Thresholds and their limits, cut as FEAGI does in the mode that keeps potentials in 0..255. No limit stays none."""
    threshold, limit = neurons.threshold, np.where(neurons.threshold_limit == NO_LIMIT, np.float32(np.inf), neurons.threshold_limit)
    if math.isinf(rules.potential_ceiling):
        return threshold, limit
    low, high = np.float32(rules.potential_floor), np.float32(rules.potential_ceiling)
    outside = (threshold < low) | (threshold > high)
    report.thresholds_clamped = int(np.count_nonzero(outside))
    above = (limit > high) & np.isfinite(limit)
    report.threshold_limits_clamped = int(np.count_nonzero(above))
    if report.thresholds_clamped:
        worst = f"{threshold[outside].min():g} to {threshold[outside].max():g}"
        report.warn(f"{report.thresholds_clamped:,} neurons have a threshold outside {low:g}..{high:g} ({worst}), brought into it")
    if report.threshold_limits_clamped:
        report.warn(f"{report.threshold_limits_clamped:,} neurons have a threshold limit above {high:g}, taken as {high:g}")
    return np.clip(threshold, low, high), np.where(above, high, limit)
