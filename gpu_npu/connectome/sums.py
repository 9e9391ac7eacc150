"""The proof that no synaptic sum of a network overflows its 64-bit accumulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, Counts
from gpu_npu.errors import NetworkError, SumOverflowError

from .fields import CountType, largest_count
from .settings import Area, Rules
from .synapses import SynapseBatch

SUM_LIMIT = 2**63
"""Absolute sums of one sign stay below this."""
PRODUCT_LIMIT = 2**31
"""weight * psp stays below this where sums have fraction bits."""
Reaches = Mapping[tuple[int, int], int]
"""(source area, target area) -> the largest weight that plasticity can raise a synapse of this mapping to."""
NO_REACH: Reaches = MappingProxyType({})
_LOW_WORD = np.uint64(2**32 - 1)
_WORD = np.uint64(32)


@dataclass(frozen=True)
class Arithmetic:
    """How the terms of a network are computed and summed."""

    real: bool
    """A term is fl32(fl32(weight * p) / k), as weights or psps, or potentials that are delivered, have fractions; else an exact
    integer, or a quotient of integers in fixed point."""
    bits: int
    """F of the semantics, the fraction bits of sums: 0 or 32."""
    most: int
    """No weight * p is larger, mp-driven sources included."""

    @staticmethod
    def of(weight_dtype: CountType, psp_dtype: CountType, areas: Mapping[int, Area], rules: Rules) -> Arithmetic:
        """That of a network with these dtypes, areas and rules."""
        driven = any(area.mp_driven_psp for area in areas.values())
        real = np.float32 in (weight_dtype, psp_dtype) or (driven and not rules.mp_driven_rounding)
        fixed = real or not all(area.psp_uniform for area in areas.values())
        return Arithmetic(real, 32 if fixed else 0, largest_count(weight_dtype) * largest_count(psp_dtype))


WHOLE = Arithmetic(False, 0, 65535 * 65535)
"""Of integers that are not divided."""


def _largest(
    batches: Iterable[SynapseBatch], neuron_areas: U32, areas: Mapping[int, Area], arithmetic: Arithmetic, reach: Reaches
) -> tuple[int, int, int]:
    """(simple, exact, target with the largest exact sum)."""
    bits = arithmetic.bits
    n = len(neuron_areas)
    driven = np.isin(neuron_areas, np.array([i for i, area in areas.items() if area.mp_driven_psp], np.uint32))
    divided = np.isin(neuron_areas, np.array([i for i, area in areas.items() if not area.psp_uniform], np.uint32))
    least_weight, least_psp = least_weight_and_psp(areas, reach)
    reached = _reached(reach)
    leaving = np.zeros(n, np.uint64)
    if bits:
        for batch in batches:
            leaving += np.bincount(batch.source, minlength=n).astype(np.uint64)
    # Two sums a target, excitatory and inhibitory. A product is below 2**32, so a batch cannot bring a sum from below 2**63
    # beyond 64 bits; terms with a fraction are summed as two halves of 32 bits each.
    whole, anywhere, high, low = (np.zeros(2 * n, np.uint64) for _ in range(4))
    for batch in batches:
        kind: Any = np.float32 if arithmetic.real else np.uint64
        psp = np.where(driven[batch.source], kind(255), batch.psp.astype(kind))
        weight = np.maximum(batch.weight.astype(kind), reached(neuron_areas[batch.source], neuron_areas[batch.target]).astype(kind))
        with np.errstate(over="ignore"):
            product: NDArray[Any] = weight * psp
        if bits and product.size and product.max() >= PRODUCT_LIMIT:
            i = int(product.argmax())
            raised = "" if weight[i] == batch.weight[i] else f" (the weight is {batch.weight[i]}; a plasticity rule can raise it)"
            raise NetworkError(
                f"synapse {int(batch.source[i])} -> {int(batch.target[i])}: weight {weight[i]} * psp {psp[i]} = {product[i]} is not below"
                f" 2**31, as it must be in a network with a non-uniform area or with fractions; lower one of them{raised}"
            )
        place = 2 * batch.target.astype(np.int64) + batch.inhibitory
        np.add.at(whole, place, np.ceil(product).astype(np.uint64) if arithmetic.real else product)
        if n and int(whole.max()) >= SUM_LIMIT:
            worst = int(whole.argmax())
            return int(whole[worst]), int(whole[worst]) << bits, worst // 2
        if bits:
            np.add.at(anywhere, place, largest_terms(batch.weight, batch.psp, least_weight, least_psp, arithmetic.real).astype(np.uint64))
            k = np.where(divided[batch.source], leaving[batch.source], np.uint64(1))
            if arithmetic.real:
                term = np.rint((product / k.astype(np.float32)).astype(np.float64) * 2.0**bits).astype(np.uint64)
            else:
                term = np.floor_divide((product << np.uint64(bits)) + (k >> np.uint64(1)), k)
            np.add.at(high, place, term >> _WORD)
            np.add.at(low, place, term & _LOW_WORD)
            high += low >> _WORD
            low &= _LOW_WORD
    if n == 0:
        return 0, 0, 0
    if not bits:
        simple = int(whole.max())
        return simple, simple, int(whole.argmax()) // 2
    top_sums = np.flatnonzero(high == high.max())
    worst = int(top_sums[low[top_sums].argmax()])
    return int(anywhere.max()), (int(high[worst]) << 32) + int(low[worst]), worst // 2


def _reached(reach: Reaches) -> Callable[[U32, U32], NDArray[np.float64]]:
    """What looks up, for synapses by the areas of their ends, the weight that plasticity can raise them to (0: it raises none)."""
    keys = np.array([source << 32 | target for source, target in reach], np.uint64)
    order = np.argsort(keys)
    keys, tops = keys[order], np.array(list(reach.values()), np.float64)[order]

    def reached(source_area: U32, target_area: U32) -> NDArray[np.float64]:
        if not len(keys):
            return np.zeros(len(source_area))
        key = source_area.astype(np.uint64) << _WORD | target_area
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        return np.where(keys[at] == key, tops[at], 0.0)

    return reached


def least_weight_and_psp(areas: Mapping[int, Area], reach: Reaches) -> tuple[int, int]:
    """What any synapse may come to have once its ends are in other areas: the largest weight that a rule reaches anywhere,
    and 255 where some area is mp-driven."""
    return max(reach.values(), default=0), 255 if any(area.mp_driven_psp for area in areas.values()) else 0


def largest_sums(
    batches: Iterable[SynapseBatch], neuron_areas: U32, areas: Mapping[int, Area], arithmetic: Arithmetic, reach: Reaches = NO_REACH
) -> tuple[int, int]:
    """(simple, exact): the largest synaptic sum of one sign that any target can see in a burst.

    `exact` is in units of 2**-F; k is the number of synapses in the batches that leave the source, the psp of a
    mp-driven source is taken as 255, and a weight as what plasticity can make of it. `simple` is in whole units, has
    k = 1 everywhere and, where F is 32, takes every source for mp-driven if one is, and every synapse for plastic:
    exact <= simple * 2**F whatever areas the neurons are in, and only adding or reweighting can raise it (removing can
    raise `exact`, because k falls). Where F is 0 it is `exact`.

    batches: all valid synapses, in something that can be gone through twice. neuron_areas: uint32, one an id.
    NetworkError: where F is 32, a weight * psp of 2**31 or more. Work and memory: O(synapses of a batch + ids).
    """
    simple, exact, _ = _largest(batches, neuron_areas, areas, arithmetic, reach)
    return simple, exact


def largest_terms(weight: Counts, psp: Counts, least_weight: int, least_psp: int, real: bool) -> NDArray[np.float64]:
    """For each synapse a whole number that none of its terms exceeds, whatever areas its ends are in; 2**32 stands for all that are
    larger. real: as Arithmetic.real, so terms are rounded to float32."""
    product = np.maximum(weight, least_weight).astype(np.float64) * np.maximum(psp, least_psp)
    if real:
        product *= 1 + 2.0**-23
    return np.minimum(np.ceil(product), 2.0**32)


def check_sums(
    batches: Iterable[SynapseBatch],
    neuron_areas: U32,
    areas: Mapping[int, Area],
    arithmetic: Arithmetic,
    synapse_count: int,
    reach: Reaches = NO_REACH,
) -> int | None:
    """See that no synaptic sum can reach 2**63 in units of 2**-F; SumOverflowError naming the target if one can.

    Returns the `simple` bound of `largest_sums`, or None where none is needed: with F = 0 so few synapses cannot reach 2**63,
    and none is looked at. With F = 32, while the simple bound plus every product added since stays below 2**31, no removal, no
    move and no further check can fail.
    """
    bits = arithmetic.bits
    if bits == 0 and synapse_count * arithmetic.most < SUM_LIMIT:
        return None
    simple, exact, target = _largest(batches, neuron_areas, areas, arithmetic, reach)
    if exact >= SUM_LIMIT:
        raise SumOverflowError(
            f"neuron {target}: its synaptic input in one burst could reach {exact} in units of 2**-{bits}, and 64 bits hold less than"
            f" {SUM_LIMIT}; lower weights or psps of its synapses or the w_max of plasticity rules, or divide them among neurons"
        )
    return simple
