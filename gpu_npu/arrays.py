"""Names for NumPy arrays by dtype, used in annotations of the whole package, and sets as ascending arrays."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]
"""Indices into other arrays."""
Counts = NDArray[Any]
"""uint8 or uint16: weights, psps or delays; weights and psps may be float32."""

T = TypeVar("T", bound=np.generic)


def spread(value: Any, n: int, dtype: DTypeLike) -> NDArray[Any]:
    """One value n times: an array of shape (n,) in the memory of one item, read-only."""
    return np.broadcast_to(np.asarray(value, dtype), (n,))


def is_spread(array: NDArray[Any]) -> bool:
    """Whether this is one value, as `spread` makes it, or a slice of that."""
    return array.strides == (0,)


def sorted_unique(values: NDArray[T]) -> NDArray[T]:
    """The values, ascending, each once. `np.unique` of NumPy 2.3 and newer hashes, which takes ten times as long for ids."""
    ordered = np.sort(values, axis=None)
    first: Flags = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def sorted_union(*parts: NDArray[T]) -> NDArray[T]:
    """What is in any of these arrays, ascending, each value once."""
    return sorted_unique(np.concatenate(parts))


def without(values: NDArray[T], others: NDArray[Any]) -> NDArray[T]:
    """The values that are not among `others`, in their order; `others` ascend."""
    if not len(others):
        return values
    at = np.minimum(np.searchsorted(others, values), len(others) - 1)
    kept: NDArray[T] = values[others[at] != values]
    return kept
