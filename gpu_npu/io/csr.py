"""Connectomes in CSR by source, as connectome data sets are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.connectome import Connectome

from .archive import Archive


def load_csr(archive: Archive, fields: Mapping[str, ArrayLike]) -> Connectome:
    """indptr, indices, count and sign -> a connectome; weight = count (uint16), psp = 1, inhibitory = sign of the source < 0."""
    indptr = _integers(archive, "indptr")
    indices = _integers(archive, "indices")
    count = _integers(archive, "count")
    n = len(indptr) - 1
    sign = _integers(archive, "sign") if "sign" in archive else np.ones(max(n, 0), np.int8)
    if n < 0 or indptr[0] != 0 or indptr[-1] != len(indices):
        ends = f"from {indptr[0]} to {indptr[-1]}" if n >= 0 else "nowhere, being empty"
        raise archive.error(f"'indptr' goes {ends}; it must go from 0 to {len(indices)}, the length of 'indices'")
    falls = np.flatnonzero(indptr[1:] < indptr[:-1])
    if falls.size:
        i = int(falls[0]) + 1
        raise archive.error(f"indptr[{i}] = {indptr[i]} is below indptr[{i - 1}] = {indptr[i - 1]}")
    if len(count) != len(indices):
        raise archive.error(f"'count' has {len(count)} values for {len(indices)} of 'indices'")
    if len(sign) != n:
        raise archive.error(f"'sign' has {len(sign)} values for {n} neurons")
    _within(archive, "indices", indices, n - 1)
    _within(archive, "count", count, 65535)
    bounds = indptr.astype(np.int64)
    source = np.repeat(np.arange(n, dtype=np.uint32), bounds[1:] - bounds[:-1])
    network = Connectome(n, len(indices), weight_dtype=np.uint16)
    network.add_neurons(n, **fields)
    network.add_synapses(source, indices, count, 1, (sign < 0)[source])
    return network


def _integers(archive: Archive, name: str) -> NDArray[Any]:
    array = archive.array(name)
    if array.dtype.kind not in "iu":
        raise archive.error(f"array {name!r} has dtype {array.dtype}, not integers")
    return array


def _within(archive: Archive, name: str, array: NDArray[Any], high: int) -> None:
    if array.size and (int(array.min()) < 0 or int(array.max()) > high):
        i = int(np.argmax((array < 0) | (array > high)))
        raise archive.error(f"{name}[{i}] = {array[i]} is outside 0..{high}")
