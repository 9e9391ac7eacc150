"""The doors of the package: what a network may hold and what may be said to it. Nothing returned aliases the caller's arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import NetworkError, NeuronIndexError, SumOverflowError
from .fields import NEURON_FIELDS, Field
from .settings import Area
from .synapses import Counts, CountType, SynapseBatch

SMALLEST_NORMAL = np.float32(2.0**-126)
LARGEST = np.finfo(np.float32).max
SUM_LIMIT = 2**63
"""Absolute sums of one sign stay below this."""
PRODUCT_LIMIT = 2**31
"""weight * psp stays below this in a network with a non-uniform area."""
Reaches = Mapping[tuple[int, int], int]
"""(source area, target area) -> the largest weight that plasticity can raise a synapse of this mapping to."""
NO_REACH: Reaches = MappingProxyType({})
_LOW_WORD = np.uint64(2**32 - 1)
_WORD = np.uint64(32)


# -- numbers -------------------------------------------------------------------------------------------------------
def settle(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Magnitudes below 2**-126 (-0 included) become +0, infinities the largest finite float32 of their sign."""
    return np.clip(_flush(x), -LARGEST, LARGEST)


def _flush(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.float32(0), x)


def _array(values: ArrayLike, what: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise NetworkError(f"{what}: not an array of numbers: {error}") from error


def _wrong_dtype(what: str, array: NDArray[Any], wanted: str) -> NetworkError:
    return NetworkError(f"{what}: dtype {array.dtype} (first value {array.flat[0]!r}) where {wanted} are needed")


def _first(bad: NDArray[np.bool_], array: NDArray[Any], what: str) -> tuple[str, Any]:
    """The place of the first bad value, as "what[place]" or "what" for a scalar, and the value."""
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    return (f"{what}[{', '.join(map(str, place))}]" if place else what), array[place].item()


def _shaped(array: NDArray[Any], shape: tuple[int, ...], what: str, dtype: type[np.generic] | np.dtype[Any]) -> NDArray[Any]:
    """A copy of `array` with this shape; one value (or one row) serves all."""
    if array.shape not in (shape, shape[1:]):
        if array.ndim == len(shape) and array.shape[1:] == shape[1:]:
            raise NetworkError(f"{what}: {len(array):,} values for {shape[0]:,}; give one value or one for each")
        raise NetworkError(f"{what}: an array of shape {array.shape}, where {shape} or {shape[1:]} is needed")
    new: NDArray[Any] = np.empty(shape, dtype)
    new[...] = array
    return new


def _integers(array: NDArray[Any], low: int, high: int, what: str) -> NDArray[Any]:
    """`array` with all values seen to be integers in low..high."""
    if array.size == 0:
        return array
    if array.dtype.kind not in "iu":
        raise _wrong_dtype(what, array, "integers")
    if int(array.min()) < low or int(array.max()) > high:
        where, value = _first((array < low) | (array > high), array, what)
        raise NetworkError(f"{where}: {value} is outside {low}..{high}")
    return array


def _reals(array: NDArray[Any], low: float, high: float, what: str, *, plus_infinity: bool = False) -> NDArray[np.float32]:
    """`array` as float32, settled, with all values seen to be finite and in low..high."""
    if array.size == 0:
        return array.astype(np.float32)
    if array.dtype.kind not in "iuf":
        raise _wrong_dtype(what, array, "real numbers")
    with np.errstate(all="ignore"):
        single = array.astype(np.float32)
    bad = ~np.isfinite(single)
    if plus_infinity:
        bad &= single != np.float32(np.inf)
    if bad.any():
        where, value = _first(bad, array, what)
        raise NetworkError(f"{where}: {value} is not a finite float32")
    if low > -math.inf:
        bad = (array < low) | (array > high)
        if bad.any():
            where, value = _first(bad, array, what)
            raise NetworkError(f"{where}: {value} is outside {low:g}..{high:g}")
    return _flush(single)


def _flags(array: NDArray[Any], what: str) -> NDArray[Any]:
    """`array` seen to hold booleans, or integers 0 and 1."""
    if array.dtype.kind == "b":
        return array
    return _integers(array, 0, 1, what)


def check_count(value: object, what: str) -> int:
    """An integer of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise NetworkError(f"{what}: {value!r} is not an integer of 0 or more")
    return int(value)


# -- ids -----------------------------------------------------------------------------------------------------------
def check_ids(ids: ArrayLike, capacity: int, what: str = "neurons") -> NDArray[np.uint32]:
    """Neuron ids as a uint32 array of shape (n,), contiguous; one id alone gives shape (1,).

    NetworkError: not integers, or not one-dimensional. NeuronIndexError: below 0 or not below `capacity`.
    """
    array = np.atleast_1d(_array(ids, what))
    if array.ndim != 1:
        raise NetworkError(f"{what}: ids in an array of shape {array.shape}; a flat one is needed")
    if array.size:
        if array.dtype.kind not in "iu":
            raise _wrong_dtype(what, array, "integer ids")
        if int(array.min()) < 0 or int(array.max()) >= capacity:
            where, value = _first((array < 0) | (array >= capacity), array, what)
            raise NeuronIndexError(
                f"{where}: {value} is not a neuron id (this network reserves {capacity:,} ids from 0); reserve(neurons=...) makes room"
            )
    return np.array(array, np.uint32, order="C")


def check_unique(ids: NDArray[np.uint32], what: str = "neurons") -> None:
    """NetworkError naming the first id that is given twice."""
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if again.size:
        second = int(order[again + 1].min())
        raise NetworkError(f"{what}[{second}]: {int(ids[second])} is given more than once")


def check_area_id(area: object) -> int:
    """The id of an area: an integer that fits uint32."""
    if isinstance(area, bool) or not isinstance(area, (int, np.integer)) or not 0 <= area < 2**32:
        raise NetworkError(f"area {area!r} is not an integer in 0..4294967295")
    return int(area)


# -- neurons -------------------------------------------------------------------------------------------------------
def field_named(name: str) -> Field:
    """The entry of NEURON_FIELDS; NetworkError for a name that is none."""
    try:
        return NEURON_FIELDS[name]
    except (KeyError, TypeError):
        raise NetworkError(f"{name!r} is not a field of a neuron; these are: {', '.join(NEURON_FIELDS)}") from None


def check_field(name: str, values: ArrayLike, n: int) -> NDArray[Any]:
    """Values of a field for n neurons: shape (n,) or (n, 3), dtype of the field; one value (or triple) serves all.

    NetworkError: another length, a dtype that does not fit, NaN, infinite (+inf is allowed for threshold_limit) or
    outside the range of the field. Reals are rounded to float32 and settled.
    """
    field = field_named(name)
    array = _array(values, name)
    if field.dtype is np.float32:
        array = _reals(array, field.minimum, field.maximum, name, plus_infinity=name == "threshold_limit")
    elif field.dtype is np.bool_:
        array = _flags(array, name)
    else:
        array = _integers(array, int(field.minimum), int(field.maximum), name)
    return _shaped(array, (n,) if field.width == 1 else (n, field.width), name, field.dtype)


def check_scalar(field: Field, value: Any) -> Any:
    """One value of a field of width 1, quickly where it is a plain number in range; else by `check_field`."""
    kind = type(value)
    if field.dtype is np.float32:
        if (kind is float or kind is int) and field.minimum <= value <= field.maximum:
            if value == 0:
                return 0.0
            if SMALLEST_NORMAL <= abs(value) <= LARGEST:
                return value
    elif kind is (bool if field.dtype is np.bool_ else int) and field.minimum <= value <= field.maximum:
        return value
    return check_field(field.name, value, 1)[0]


def check_potentials(values: ArrayLike, n: int, what: str = "potentials") -> NDArray[np.float32]:
    """n potentials as float32, settled; one value serves all. NetworkError: NaN, infinite, another length."""
    return _shaped(_reals(_array(values, what), -math.inf, math.inf, what), (n,), what, np.float32)


# -- synapses ------------------------------------------------------------------------------------------------------
def check_count_dtype(dtype: Any, what: str) -> CountType:
    """np.uint8 or np.uint16."""
    for allowed in (np.uint8, np.uint16):
        if dtype == allowed:
            return allowed
    raise NetworkError(f"{what}: {dtype!r} is neither uint8 nor uint16")


def check_weights(weight: ArrayLike, dtype: Any, n: int, what: str = "weight") -> Counts:
    """n weights (or psps) of this dtype; one value serves all. NetworkError: floats, outside the dtype, another length."""
    array = _integers(_array(weight, what), 0, int(np.iinfo(dtype).max), what)
    return _shaped(array, (n,), what, dtype)


def check_synapses(
    source: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike,
    psp: ArrayLike,
    inhibitory: ArrayLike,
    capacity: int,
    weight_dtype: Any,
    psp_dtype: Any,
) -> SynapseBatch:
    """Synapses between reserved ids as a batch; scalars serve all, and all arrays have one length.

    NetworkError, NeuronIndexError: as for ids, weights and flags; the message names the array and the place in it.
    """
    given = {"source": source, "target": target, "weight": weight, "psp": psp, "inhibitory": inhibitory}
    arrays = {what: _array(values, what) for what, values in given.items()}
    n = next((len(array) for array in arrays.values() if array.ndim), 1)
    for what, array in arrays.items():
        if array.ndim and len(array) != n:
            raise NetworkError(f"{what}: {len(array):,} values for {n:,} synapses; give one value or one for each")
    return SynapseBatch(
        _shaped(check_ids(arrays["source"], capacity, "source").reshape(arrays["source"].shape), (n,), "source", np.uint32),
        _shaped(check_ids(arrays["target"], capacity, "target").reshape(arrays["target"].shape), (n,), "target", np.uint32),
        check_weights(arrays["weight"], weight_dtype, n, "weight"),
        check_weights(arrays["psp"], psp_dtype, n, "psp"),
        _shaped(_flags(arrays["inhibitory"], "inhibitory"), (n,), "inhibitory", np.bool_),
    )


# -- sums ----------------------------------------------------------------------------------------------------------
def fixed_point_bits(areas: Mapping[int, Area]) -> int:
    """F of the semantics, the fraction bits of synaptic sums: 0 when every area is uniform, else 32."""
    return 0 if all(area.psp_uniform for area in areas.values()) else 32


def _largest(
    batches: Iterable[SynapseBatch], neuron_areas: NDArray[np.uint32], areas: Mapping[int, Area], bits: int, reach: Reaches
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
    batches: Iterable[SynapseBatch], neuron_areas: NDArray[np.uint32], areas: Mapping[int, Area], bits: int, reach: Reaches = NO_REACH
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
    neuron_areas: NDArray[np.uint32],
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
            f"target {target}: its synapses can sum to {exact} (units of 2**-{bits}), the limit is {SUM_LIMIT};"
            " lower their weights or psps, the reach of plasticity rules, or split the target"
        )
    return simple
