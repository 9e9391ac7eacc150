"""Float32 tables into a connectome, whose weights and psps are integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import gcd, lcm, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import Area, Connectome, NetworkError, Rules, Settings

from .report import Report
from .tables import NO_LIMIT, NeuronTable, SynapseTable

INT_MAX = 65535
PRODUCT_LIMIT = 2.0**31
"""Sums at a target stay below this in a network with a non-uniform area."""


def pack(
    neurons: NeuronTable,
    synapses: SynapseTable,
    areas: Mapping[int, Area],
    report: Report,
    *,
    rules: str = "feagi-2.6",
    inexact: str = "round",
    delays: str = "one",
) -> Connectome:
    """The connectome; what had to be changed for it is counted in the report.

    - psp < 0: the synapse's type turns, psp = |psp|.
    - weights and psps: whole as they are; else in a common unit each that makes them whole, the product of the two being
      the network's contribution_scale; else rounded (inexact="round") or a NetworkError ("refuse").
    - delays above 1: taken as 1 (delays="one") or a NetworkError ("refuse").
    - leak coefficients and excitabilities: clamped to 0..1.
    """
    for value, what in ((inexact, "inexact"), (delays, "delays")):
        allowed = ("round", "refuse") if what == "inexact" else ("one", "refuse")
        if value not in allowed:
            raise NetworkError(f"{what}: {value!r} is neither {allowed[0]!r} nor {allowed[1]!r}")
    preset = Rules.preset(rules)
    _delays(synapses, delays, report)
    negative = synapses.psp < 0
    report.negative_psps = int(np.count_nonzero(negative))
    driven = np.isin(neurons.area, np.array([row for row, area in areas.items() if area.mp_driven_psp], np.uint32))[synapses.source]
    heaviest = _heaviest(synapses, driven, len(neurons)) if any(not area.psp_uniform for area in areas.values()) else 0.0
    psp, psp_unit = _whole(np.where(driven, np.float32(0), np.abs(synapses.psp)), heaviest, "psp", inexact)
    # A potential takes the place of a driven synapse's psp and knows no unit: the weight makes up for it.
    strength = np.where(driven, synapses.weight / np.float32(psp_unit), synapses.weight)
    weight, weight_unit = _whole(strength, heaviest / psp_unit, "weight", inexact)
    report.weight_unit, report.psp_unit = weight_unit, psp_unit
    report.weights_rounded = _rounded(strength, weight, weight_unit, "weights", report)
    report.psps_rounded = _rounded(np.where(driven, np.float32(0), np.abs(synapses.psp)), psp, psp_unit, "psps", report)
    network = Connectome(
        len(neurons),
        len(synapses),
        weight_dtype=_smallest(weight),
        psp_dtype=_smallest(psp),
        settings=Settings(preset, contribution_scale=weight_unit * psp_unit),
        areas=areas,
    )
    limit = np.where(neurons.threshold_limit == NO_LIMIT, np.float32(np.inf), neurons.threshold_limit)
    network.add_neurons(
        len(neurons),
        threshold=neurons.threshold,
        threshold_limit=limit,
        leak_coefficient=_leaks(neurons, report),
        refractory_period=neurons.refractory_period,
        excitability=np.clip(neurons.excitability, 0, 1),
        consecutive_fire_limit=neurons.consecutive_fire_limit,
        snooze_period=neurons.snooze_period,
        mp_charge_accumulation=neurons.mp_charge_accumulation,
        cortical_area=neurons.area,
        coordinates=np.stack([neurons.x, neurons.y, neurons.z], axis=1),
    )
    network.add_synapses(synapses.source, synapses.target, weight, psp, synapses.inhibitory ^ negative)
    return network


def _delays(synapses: SynapseTable, delays: str, report: Report) -> None:
    late = np.flatnonzero(synapses.delay > 1)
    report.delayed_synapses = len(late)
    if not len(late):
        return
    i = late[0]
    text = f"{len(late):,} synapses have a delay above 1 burst, the first {synapses.source[i]} -> {synapses.target[i]}: {synapses.delay[i]}"
    if delays == "refuse":
        raise NetworkError(f"{text}; this network has one burst of delay (delays='one' takes them as 1)")
    report.warn(f"{text}; they are taken as 1")


def _leaks(neurons: NeuronTable, report: Report) -> NDArray[np.float32]:
    leak = neurons.leak_coefficient
    above, below = int(np.count_nonzero(leak > 1)), int(np.count_nonzero(leak < 0))
    report.leaks_clamped = above + below
    if above:
        report.warn(f"{above:,} neurons have a leak coefficient above 1 (up to {leak.max():g}); it is taken as 1")
    if below:
        report.warn(f"{below:,} neurons have a leak coefficient below 0 (down to {leak.min():g}); it is taken as 0")
    return np.clip(leak, 0, 1)


# -- integers ------------------------------------------------------------------------------------------------------
def _heaviest(synapses: SynapseTable, driven: NDArray[np.bool_], n: int) -> float:
    """The largest sum of weight * psp, signs left out, that ends in one neuron."""
    if not len(synapses):
        return 0.0
    psp = np.where(driven, 255.0, np.abs(synapses.psp.astype(np.float64)))
    return float(np.bincount(synapses.target, synapses.weight * psp, minlength=n).max())


def _whole(values: NDArray[np.float32], heaviest: float, what: str, inexact: str) -> tuple[NDArray[np.int64], float]:
    """(integers, unit) with values = integers * unit, exactly or, where that cannot be, nearly.

    A number stands for its shortest decimal: 0.4 is 4 * 0.1, not 13421773 * 2**-25.
    """
    distinct = np.unique(values)
    if not len(distinct):
        return values.astype(np.int64), 1.0
    top = float(distinct[-1])
    if top <= INT_MAX and np.array_equal(distinct, np.round(distinct)):
        return values.astype(np.int64), 1.0
    exact = [Fraction(str(value)) for value in distinct if value]
    unit = _common_unit(exact)
    if exact and max(exact) / unit <= INT_MAX and heaviest / float(unit) < PRODUCT_LIMIT / 2:
        codes = np.array([int(Fraction(str(value)) / unit) for value in distinct], np.int64)
        return codes[np.searchsorted(distinct, values)], float(unit)
    if inexact == "refuse":
        odd = [value for value in distinct.tolist() if value > INT_MAX or value != round(value)]
        raise NetworkError(
            f"{what}: no common unit makes these values integers up to {INT_MAX}: {len(odd):,} of {len(distinct):,} are above it"
            f" or have fractions, the first {odd[0]:g} (inexact='round' takes the nearest)"
        )
    # The finest power of two that leaves room for the largest, and for the sums.
    room = min(INT_MAX / top, PRODUCT_LIMIT / 2 / heaviest if heaviest else INT_MAX)
    step = 2.0 ** -max(0, int(np.floor(log2(room))) if room >= 1 else 0)
    return np.minimum(np.round(values.astype(np.float64) / step), INT_MAX).astype(np.int64), step


def _common_unit(values: Iterable[Fraction]) -> Fraction:
    """The largest number of which all are multiples."""
    numerator, denominator = 0, 1
    for value in values:
        both = lcm(denominator, value.denominator)
        numerator = gcd(numerator * (both // denominator), value.numerator * (both // value.denominator))
        denominator = both
    return Fraction(numerator or 1, denominator)


def _rounded(values: NDArray[np.float32], codes: NDArray[np.int64], unit: float, what: str, report: Report) -> int:
    """How many values are not code * unit; the report says so, and what the unit is."""
    if unit != 1:
        report.warn(f"{what} are stored in units of {unit:g}")
    off = (codes * unit).astype(np.float32) != values
    count = int(np.count_nonzero(off))
    if count:
        i = int(np.argmax(np.where(off, np.abs(codes * unit - values), -1)))
        report.warn(f"{count:,} {what} were rounded, the worst from {values[i]:g} to {codes[i] * unit:g}")
    return count


def _smallest(codes: NDArray[np.int64]) -> Any:
    return np.uint8 if not len(codes) or int(codes.max()) <= 255 else np.uint16
