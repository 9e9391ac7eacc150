"""FEAGI's float32 weights and psps as the integers of a network: one common scale, exact wherever there is one."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import F32, Flags, sorted_unique
from gpu_npu.errors import NetworkError
from gpu_npu.objects import one_line

LARGEST_COUNT = 65535
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
LARGEST_DENOMINATOR = 1000
"""Fractions looked for: halves, thirds, ... thousandths."""
MODES = ("scale", "round", "refuse")


class Packed(NamedTuple):
    """Integers of n synapses; what a synapse delivers is `weight * psp * scale`."""

    weight: NDArray[Any]
    """uint8, or uint16 where one is above 255."""
    psp: NDArray[Any]
    inhibitory: Flags
    scale: float
    """The network's contribution_scale: weight_unit * psp_unit, as float32."""
    counts: dict[str, int]
    """How many synapses had: fractional_weight, fractional_psp, weight_over (65,535), psp_over, negative_psp (it turned the
    type); and weight_rounded, psp_rounded: those whose value is no longer what it was."""
    weight_unit: float
    psp_unit: float

    def __repr__(self) -> str:
        return one_line(self)


def pack_synapses(
    weight: ArrayLike,
    psp: ArrayLike,
    inhibitory: ArrayLike,
    *,
    fractions: str = "scale",
    mp_driven: ArrayLike = False,
    narrow: bool = False,
    target: ArrayLike | None = None,
) -> Packed:
    """|weight| = weight' * u and |psp| = psp' * v with one u and one v for all, and scale = u * v.

    fractions: what is done where no u, v make all values whole numbers up to 65,535.
    - "scale": the finest powers of two, 1 or below, for which all fit, and the values rounded to them and cut at 65,535.
    - "refuse": NetworkError naming a value.
    - "round" looks for no scale at all: u = v = 1, values rounded half up and cut at 65,535.

    A value is whole in units of u when it is the float32 nearest to a multiple of u; 0.1 is a tenth.
    mp_driven (n,): synapses whose psp is the source's potential; theirs is not looked at, and their weight carries both units.
    narrow: keep weight' * psp' below 2**31, as a network with a non-uniform area must; and, where `target` (n,) is given,
    the sum of them that ends in one neuron too.
    """
    if fractions not in MODES:
        raise NetworkError(f"fractions: {fractions!r} is not one of {', '.join(map(repr, MODES))}")
    w, p = _finite(weight, "weight"), _finite(psp, "psp")
    driven = np.broadcast_to(np.asarray(mp_driven, np.bool_), w.shape)
    negative = (p < 0) & ~driven
    inhibitory = np.asarray(inhibitory).astype(np.bool_) ^ (w < 0) ^ negative
    w, p = np.abs(w), np.abs(p)
    counts = {
        "fractional_weight": _count(w != np.floor(w)),
        "fractional_psp": _count((p != np.floor(p)) & ~driven),
        "weight_over": _count(w > LARGEST_COUNT),
        "psp_over": _count((p > LARGEST_COUNT) & ~driven),
        "negative_psp": _count(negative),
    }
    ends = None if target is None or not narrow else np.asarray(target, np.int64)
    v = _unit(p[~driven], fractions, "psp")
    u = _unit(_carrying(w, driven, v), fractions, "weight")
    packed_w, packed_p = _in_units(_carrying(w, driven, v), u), _in_units(p, v)
    if narrow and fractions == "refuse" and _too_large(packed_w, packed_p, driven, None):
        i = int(np.argmax(np.where(driven, 0, packed_w * packed_p)))
        raise NetworkError(
            f"synapse {i}: weight {w[i]:g} and psp {p[i]:g} are {packed_w[i]:.0f} * {packed_p[i]:.0f} in whole numbers, not below"
            " 2**31 as they must be in a network with a non-uniform area",
            python="fractions='scale' rounds them",
        )
    while narrow and fractions != "refuse" and _too_large(packed_w, packed_p, driven, ends) and packed_p.any():
        v *= 2
        packed_w, packed_p = _in_units(_carrying(w, driven, v), u), _in_units(p, v)
    counts["weight_rounded"] = _count(_restored(packed_w, u) != _carrying(w, driven, v))
    counts["psp_rounded"] = _count((_restored(packed_p, v) != p) & ~driven)
    scale = float(np.float32(float(u * v)))
    if scale < SMALLEST_NORMAL:
        raise NetworkError(
            f"weights up to {w.max():g} and psps up to {p.max():g} need a contribution_scale of {float(u * v):g}, below what float32 has"
        )
    return Packed(_narrowest(packed_w), _narrowest(packed_p), inhibitory, scale, counts, float(u), float(v))


def _finite(values: ArrayLike, what: str) -> F32:
    array = np.asarray(values, np.float32)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise NetworkError(f"{what}[{bad[0]}]: {array[bad[0]]} is not a finite number")
    return array


def _count(flags: Flags) -> int:
    return int(np.count_nonzero(flags))


def _carrying(weight: F32, driven: Flags, psp_unit: Fraction) -> F32:
    """Weights, those of mp-driven synapses divided by the psp's unit, which the scale will bring in for them too."""
    carrying: F32 = np.where(driven, weight / np.float32(psp_unit), weight)
    return carrying


def _too_large(weight: NDArray[np.float64], psp: NDArray[np.float64], driven: Flags, target: NDArray[np.int64] | None) -> bool:
    """A product, or with `target` the sum of those that end in one neuron, of 2**31 or more: too much beside non-uniform areas."""
    product = np.where(driven, 0.0, weight * psp)
    if target is not None and product.size:
        product = np.bincount(target, product)
    return bool(np.any(product >= 2**31))


def _restored(counts: NDArray[np.float64], unit: Fraction) -> F32:
    return (counts * unit.numerator / unit.denominator).astype(np.float32)


def _in_units(values: F32, unit: Fraction) -> NDArray[np.float64]:
    """Values in units, rounded half up and cut at 65,535."""
    return np.minimum(np.floor(values.astype(np.float64) * unit.denominator / unit.numerator + 0.5), LARGEST_COUNT)


def _narrowest(counts: NDArray[np.float64]) -> NDArray[Any]:
    return counts.astype(np.uint8 if not counts.size or counts.max() <= 255 else np.uint16)


def _unit(values: F32, fractions: str, what: str) -> Fraction:
    """The unit that the mode asks for."""
    unique = sorted_unique(values)
    if fractions == "round" or not unique.size or unique[-1] == 0:
        return Fraction(1)
    exact = _exact_unit(unique)
    if exact is not None:
        return exact
    if fractions == "refuse":
        odd = unique[(unique != np.floor(unique)) | (unique > LARGEST_COUNT)][0]
        raise NetworkError(
            f"{what} {odd:g}: no common scale makes this and the other {len(unique) - 1:,} values whole numbers up to {LARGEST_COUNT:,}",
            python="fractions='scale' rounds them to the finest scale that fits, 'round' to whole numbers",
        )
    return Fraction(2) ** min(0, math.ceil(math.log2(float(unique[-1]) / LARGEST_COUNT)))


def _exact_unit(unique: F32) -> Fraction | None:
    """The coarsest unit needed: 1 where the values are whole and fit, else 1/d, or g/d where their multiples are too large."""
    fractional = unique[unique != np.floor(unique)]
    for d in range(1, LARGEST_DENOMINATOR + 1):
        # A few values first: most denominators fail on them.
        if not all(_whole(part, d) for part in (fractional[:64], fractional)):
            continue
        multiples = np.rint(unique.astype(np.float64) * d)
        divisor = 1
        if multiples[-1] > LARGEST_COUNT:
            if multiples[-1] >= 2**53:
                return None
            divisor = int(np.gcd.reduce(multiples.astype(np.int64)))
        return Fraction(divisor, d) if multiples[-1] <= LARGEST_COUNT * divisor else None
    return None


def _whole(values: F32, d: int) -> bool:
    """Every value is the float32 nearest to a multiple of 1/d."""
    return bool(np.all((np.rint(values.astype(np.float64) * d) / d).astype(np.float32) == values))
