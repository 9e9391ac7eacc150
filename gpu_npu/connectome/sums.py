"""The proof that no synaptic sum of a network overflows its 64-bit accumulator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

from gpu_npu.arrays import U32
from gpu_npu.errors import NetworkError, SumOverflowError

from .fields import CountType
from .settings import Area
from .synapses import SynapseBatch

SUM_LIMIT = 2**63
"""Absolute sums of one sign stay below this."""
PRODUCT_LIMIT = 2**31
"""weight * psp stays below this in a network with a non-uniform area."""
Reaches = Mapping[tuple[int, int], int]
"""(source area, target area) -> the largest weight that plasticity can raise a synapse of this mapping to."""
NO_REACH: Reaches = MappingProxyType({})
_LOW_WORD = np.uint64(2**32 - 1)
_WORD = np.uint64(32)


def fixed_point_bits(areas: Mapping[int, Area]) -> int:
    """F of the semantics, the fraction bits of synaptic sums: 0 when every area is uniform, else 32."""
    return 0 if all(area.psp_uniform for area in areas.values()) else 32


def _largest(
    batches: Iterable[SynapseBatch], neuron_areas: U32, areas: Mapping[int, Area], bits: int, reach: Reaches
) -> tuple[int, int, int]:
    """(simple, exact, target with the largest exact sum)."""
    n = len(neuron_areas)
    driven = np.isin(neuron_areas, np.array([i for i, area in areas.items() if area.mp_driven_psp], np.uint32))
    divided = np.isin(neuron_areas, np.array([i for i, area in areas.items() if not area.psp_uniform], np.uint32))
    least_weight, least_psp = least_weight_and_psp(areas, reach)
    leaving = np.zeros(n, np.uint64)
    if bits:
        for batch in batches:
            leaving += np.bincount(batch.source, minlength=n).astype(np.uint64)
    # Two sums a target, excitatory and inhibitory. A product is below 2**32, so a batch cannot bring a sum from below 2**63
    # beyond 64 bits; terms with a fraction are summed as two halves of 32 bits each.
    whole, anywhere, high, low = (np.zeros(2 * n, np.uint64) for _ in range(4))
    for batch in batches:
        psp = np.where(driven[batch.source], np.uint64(255), batch.psp.astype(np.uint64))
        weight = batch.weight.astype(np.uint64)
        for (source_area, target_area), top in reach.items():
            mapping = (neuron_areas[batch.source] == source_area) & (neuron_areas[batch.target] == target_area)
            weight[mapping] = np.maximum(weight[mapping], np.uint64(top))
        product = weight * psp
        place = 2 * batch.target.astype(np.int64) + batch.inhibitory
        np.add.at(whole, place, product)
        if n and int(whole.max()) >= SUM_LIMIT:
            worst = int(whole.argmax())
            return int(whole[worst]), int(whole[worst]) << bits, worst // 2
        if bits:
            np.add.at(anywhere, place, np.maximum(batch.weight, np.uint64(least_weight)) * np.maximum(batch.psp, np.uint64(least_psp)))
            if product.size and int(product.max()) >= PRODUCT_LIMIT:
                i = int(product.argmax())
                raised = "" if weight[i] == batch.weight[i] else f" (the weight is {int(batch.weight[i])}; a plasticity rule can raise it)"
                raise NetworkError(
                    f"synapse {int(batch.source[i])} -> {int(batch.target[i])}: weight {int(weight[i])} * psp {int(psp[i])} ="
                    f" {int(product[i])} is not below 2**31, as it must be in a network with a non-uniform area; lower one of them{raised}"
                )
            k = np.where(divided[batch.source], leaving[batch.source], np.uint64(1))
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


def least_weight_and_psp(areas: Mapping[int, Area], reach: Reaches) -> tuple[int, int]:
    """What any synapse may come to have once its ends are in other areas: the largest weight that a rule reaches anywhere,
    and 255 where some area is mp-driven."""
    return max(reach.values(), default=0), 255 if any(area.mp_driven_psp for area in areas.values()) else 0


def largest_sums(
    batches: Iterable[SynapseBatch], neuron_areas: U32, areas: Mapping[int, Area], bits: int, reach: Reaches = NO_REACH
) -> tuple[int, int]:
    """(simple, exact): the largest synaptic sum of one sign that any target can see in a burst.

    `exact` is in units of 2**-bits; k is the number of synapses in the batches that leave the source, the psp of a
    mp-driven source is taken as 255, and a weight as what plasticity can make of it. `simple` is in whole units, has
    k = 1 everywhere and, with bits, takes every source for mp-driven if one is, and every synapse for plastic:
    exact <= simple * 2**bits whatever areas the neurons are in, and only adding or reweighting can raise it (removing can
    raise `exact`, because k falls). Without bits it is `exact`.

    batches: all valid synapses, in something that can be gone through twice. neuron_areas: uint32, one an id.
    NetworkError: with bits, a weight * psp of 2**31 or more. Work and memory: O(synapses of a batch + ids).
    """
    simple, exact, _ = _largest(batches, neuron_areas, areas, bits, reach)
    return simple, exact


def largest_product(weight_dtype: CountType, psp_dtype: CountType) -> int:
    """No weight * p of a network with these dtypes is larger, mp-driven sources included."""
    return int(np.iinfo(weight_dtype).max) * int(np.iinfo(psp_dtype).max)


def check_sums(
    batches: Iterable[SynapseBatch],
    neuron_areas: U32,
    areas: Mapping[int, Area],
    synapse_count: int,
    reach: Reaches = NO_REACH,
    largest_product: int = 65535 * 65535,
) -> int | None:
    """See that no synaptic sum can reach 2**63 in units of 2**-F; SumOverflowError naming the target if one can.

    Returns the `simple` bound of `largest_sums`, or None where none is needed: with F = 0 and no weight * psp above
    `largest_product`, so few synapses cannot reach 2**63, and `batches` is not touched. With F = 32, while the simple bound
    plus every product added since stays below 2**31, no removal, no move and no further check can fail.
    """
    bits = fixed_point_bits(areas)
    if bits == 0 and synapse_count * largest_product < SUM_LIMIT:
        return None
    simple, exact, target = _largest(batches, neuron_areas, areas, bits, reach)
    if exact >= SUM_LIMIT:
        raise SumOverflowError(
            f"neuron {target}: its synaptic input in one burst could reach {exact} in units of 2**-{bits}, and 64 bits hold less than"
            f" {SUM_LIMIT}; lower weights or psps of its synapses or the w_max of plasticity rules, or divide them among neurons"
        )
    return simple
