"""Checks of numbers, flags and arrays that a caller hands in.

Each function takes a value and what to call it in the error, and returns the value in one known type. The error is a
`NetworkError` that names the value. No array that is returned shares memory with the caller's, except where it says so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import F32, U32, Flags
from gpu_npu.errors import CapacityError, NetworkError, NeuronIndexError

T = TypeVar("T")
K = TypeVar("K")

SMALLEST_NORMAL = np.float32(2.0**-126)
LARGEST = np.finfo(np.float32).max
SMALLEST_LABEL = 2**32
"""An integer that can be no id, so it is a label."""


# -- one value -----------------------------------------------------------------------------------------------------
def is_integer(value: object) -> TypeGuard[int]:
    """Whether this is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def number(value: T, what: str) -> T:
    """The value itself. NetworkError: True or False, which in a list of one would be a mask."""
    if isinstance(value, (bool, np.bool_)):
        raise NetworkError(f"{what}: {value!r} is not a number")
    return value


def is_real(value: object) -> TypeGuard[float]:
    """Whether this is an integer or a float of Python or NumPy; True and False are none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_integer(value: object, what: str, low: int = 0, high: int | None = None) -> int:
    """An integer of `low` or more, and of `high` at most where that is given."""
    if high is None:
        if not is_integer(value) or value < low:
            raise NetworkError(f"{what}: {value!r} is not an integer of {low} or more")
    elif not is_integer(value):
        raise NetworkError(f"{what}: {value!r} is not an integer in {low}..{high}")
    elif not low <= value <= high:
        raise NetworkError(f"{what}: {value} is outside {low}..{high}")
    return int(value)


def check_count(value: object, what: str, least: int = 0, most: int = 2**62) -> int:
    """An integer of `least` or more; CapacityError beyond `most`."""
    count = check_integer(value, what, least)
    if count > most:
        raise CapacityError(f"{what}: {count:,} is more than {most:,}")
    return count


def check_area_id(area: object) -> int:
    """The id of an area: an integer that fits uint32."""
    if not is_integer(area) or not 0 <= area < 2**32:
        raise NetworkError(f"area {area!r} is not an integer in 0..4294967295")
    return int(area)


def check_real(value: object, what: str, low: float, high: float) -> float:
    """A real number in low..high."""
    if not is_real(value):
        raise NetworkError(f"{what}: {value!r} is not a real number")
    if not low <= value <= high:
        raise NetworkError(f"{what}: {value!r} is outside {low:g}..{high:g}")
    try:
        return float(value)
    except OverflowError as error:
        raise NetworkError(f"{what}: {shown(value)} is more than a float holds") from error


def check_single(value: object, what: str, allowed: float = 0.0) -> float:
    """A real number rounded to float32 and settled; of the infinities only `allowed` passes."""
    if not is_real(value):
        raise NetworkError(f"{what}: {value!r} is not a real number")
    try:
        with np.errstate(all="ignore"):
            single = float(np.float32(value))
    except OverflowError:
        single = math.inf if value > 0 else -math.inf
    if math.isnan(single) or (math.isinf(single) and single != allowed):
        raise NetworkError(f"{what}: {value!r} is not a finite float32")
    return single if abs(single) >= SMALLEST_NORMAL else 0.0


def check_flag(value: object, what: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise NetworkError(f"{what}: {value!r} is not True or False")
    return bool(value)


# -- one object ----------------------------------------------------------------------------------------------------
def shown(value: object) -> str:
    """A value for an error: a short line."""
    try:
        return " ".join(f"{value!r:.60}".split())
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__}"


def check_kind(value: T, kind: type, what: str) -> T:
    """An object of this class."""
    if not isinstance(value, kind):
        raise NetworkError(f"{what}: {shown(value)} is not a {kind.__name__}")
    return value


def check_choice(value: object, what: str, *allowed: str) -> str:
    """One of these texts."""
    if not isinstance(value, str) or value not in allowed:
        raise NetworkError(f"{what}: {shown(value)} is not one of {', '.join(map(repr, allowed))}")
    return value


def check_path(path: object, what: str = "path") -> Path:
    """The path of a file."""
    if not isinstance(path, (str, os.PathLike)):
        raise NetworkError(f"{what}: {shown(path)} is no path of a file")
    try:
        if b"\0" not in os.fsencode(path):
            return Path(path)
    except UnicodeEncodeError:
        pass
    raise NetworkError(f"{what}: {shown(path)} has characters that no path of a file has")


def check_callable(value: T | None, what: str) -> T | None:
    """Something that can be called, or None."""
    if value is not None and not callable(value):
        raise NetworkError(f"{what}: {shown(value)} cannot be called")
    return value


def check_map(value: Mapping[K, T], what: str) -> Mapping[K, T]:
    """A dict or its like."""
    if not isinstance(value, Mapping):
        raise NetworkError(f"{what}: {shown(value)} is no dict")
    return value


def check_listed(values: Iterable[T], what: str) -> tuple[T, ...]:
    """The values of a list or its like."""
    try:
        return tuple(values)
    except TypeError as error:
        raise NetworkError(f"{what}: {shown(values)} is no list") from error


# -- arrays --------------------------------------------------------------------------------------------------------
def settle(x: F32) -> F32:
    """Magnitudes below 2**-126 (-0 included) become +0, infinities the largest finite float32 of their sign."""
    return np.clip(_flush(x), -LARGEST, LARGEST)


def _flush(x: F32) -> F32:
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.float32(0), x)


def as_array(values: ArrayLike, what: str) -> NDArray[Any]:
    """The values as an array, which may be the caller's own. NetworkError: no array, a masked one with values masked, or a list of
    numbers with True or False among them, which NumPy reads as 1 and 0."""
    if isinstance(values, np.ma.MaskedArray) and (masked := int(np.count_nonzero(np.ma.getmask(values)))):
        raise NetworkError(
            f"{what}: {masked:,} of {values.size:,} values are masked, so there is nothing to read in their places",
            python=".compressed() leaves them out, .filled(value) puts a value there",
        )
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise NetworkError(f"{what}: not an array of numbers: {error}") from error
    if array.ndim == 1 and array.dtype.kind in "iuf" and isinstance(values, (list, tuple)):
        at = next((at for at, value in enumerate(values) if isinstance(value, (bool, np.bool_))), None)
        if at is not None:
            raise NetworkError(f"{what}[{at}]: {values[at]!r} among numbers; a mask has booleans alone")
    return array


def _wrong_dtype(what: str, array: NDArray[Any], wanted: str) -> NetworkError:
    first = array.flat[0]
    shown = first.item() if isinstance(first, np.generic) else first
    return NetworkError(f"{what}: dtype {array.dtype} (first value {shown!r:.60}) where {wanted} are needed")


def _first(bad: Flags, array: NDArray[Any], what: str) -> tuple[str, Any]:
    """The place of the first bad value, as "what[place]" or "what" for a scalar, and the value."""
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    return (f"{what}[{', '.join(map(str, place))}]" if place else what), array[place].item()


def shaped(array: NDArray[Any], shape: tuple[int, ...], what: str, dtype: type[np.generic] | np.dtype[Any]) -> NDArray[Any]:
    """A copy of `array` with this shape and dtype; one value (or one row) serves all."""
    if array.shape not in (shape, shape[1:]):
        if array.ndim == len(shape) and array.shape[1:] == shape[1:]:
            raise NetworkError(f"{what}: {len(array):,} values for {shape[0]:,}; give one value or one for each")
        raise NetworkError(f"{what}: an array of shape {array.shape}, where {shape} or {shape[1:]} is needed")
    new: NDArray[Any] = np.empty(shape, dtype)
    new[...] = array
    return new


def check_integers(array: NDArray[Any], low: int, high: int, what: str) -> NDArray[Any]:
    """`array` itself, with all values seen to be integers in low..high."""
    if array.size == 0:
        return array
    if array.dtype.kind not in "iu":
        raise _wrong_dtype(what, array, "integers")
    if int(array.min()) < low or int(array.max()) > high:
        where, value = _first((array < low) | (array > high), array, what)
        raise NetworkError(f"{where}: {value} is outside {low}..{high}")
    return array


def check_reals(array: NDArray[Any], low: float, high: float, what: str, *, plus_infinity: bool = False) -> F32:
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


def check_flags(array: NDArray[Any], what: str) -> NDArray[Any]:
    """`array` itself, seen to hold booleans, or integers 0 and 1."""
    if array.dtype.kind == "b":
        return array
    return check_integers(array, 0, 1, what)


def check_potentials(values: ArrayLike, n: int, what: str = "potentials") -> F32:
    """n potentials as float32, settled; one value serves all. NetworkError: NaN, infinite, another length."""
    return shaped(check_reals(as_array(values, what), -math.inf, math.inf, what), (n,), what, np.float32)


# -- ids -----------------------------------------------------------------------------------------------------------
Find = Callable[[NDArray[Any], str], U32]
"""Labels -> ids, as of `Annotations.find`."""


def check_ids(ids: ArrayLike, capacity: int, what: str = "neurons", find: Find | None = None) -> U32:
    """Neuron ids as a uint32 array of shape (n,), contiguous; one id alone gives shape (1,).

    ids: integers, or a mask: `capacity` booleans, True for each neuron that is meant; or labels, where `find` knows them: texts,
        or integers of which one is too large for an id.
    NetworkError: neither of both, not one-dimensional, or a mask of another length. NeuronIndexError: below 0 or not below
    `capacity`.
    """
    given = as_array(ids, what)
    array = np.atleast_1d(given)
    if array.ndim != 1:
        raise NetworkError(f"{what}: ids in an array of shape {array.shape}; a flat one is needed")
    if array.dtype.kind == "b" and given.ndim:
        if len(array) != capacity:
            raise NetworkError(
                f"{what}: a mask of {len(array):,} booleans; a mask has one for each of the {capacity:,} ids of this network"
            )
        return np.flatnonzero(array).astype(np.uint32)
    if array.size:
        if find is not None and (array.dtype.kind == "U" or (array.dtype.kind in "iu" and int(array.max()) >= SMALLEST_LABEL)):
            return find(array, what)
        if array.dtype.kind not in "iu":
            raise _wrong_dtype(what, array, "integer ids")
        if int(array.min()) < 0 or int(array.max()) >= capacity:
            raise NeuronIndexError.outside(*_first((array < 0) | (array >= capacity), array, what), capacity)
    return np.array(array, np.uint32, order="C")


def check_unique(ids: U32, what: str = "neurons") -> None:
    """NetworkError naming the first id that is given twice."""
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if again.size:
        second = int(order[again + 1].min())
        raise NetworkError(f"{what}[{second}]: {int(ids[second])} is given more than once")


def check_pairs(source: ArrayLike, target: ArrayLike, capacity: int, find: Find | None = None) -> tuple[U32, U32]:
    """The ids of two ends of synapses, as many of one as of the other."""
    sources, targets = check_ids(source, capacity, "source", find), check_ids(target, capacity, "target", find)
    if len(sources) != len(targets):
        raise NetworkError(f"target: {len(targets):,} ids for {len(sources):,} of source; one of each makes a pair")
    return sources, targets
