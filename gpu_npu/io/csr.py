"""Connectomes in CSR by source, as connectome data sets are published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import sorted_unique
from gpu_npu.connectome import Annotations, Connectome, SynapseBatch, SynapseSource
from gpu_npu.connectome.fields import CountType
from gpu_npu.connectome.synapses import SYNAPSES_AT_A_TIME
from gpu_npu.errors import FileFormatError

from .archive import Archive, Column, has_array
from .columns import NEURONS, plain
from .formats import Format, Given, Reading

_OWN = ("indptr", "indices", "count", "sign")
A = TypeVar("A", NDArray[Any], Column)


def _stream(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    with Archive(given.path, reading.memory_limit) as archive:
        return _read(archive, reading)


def _read(archive: Archive, reading: Reading) -> tuple[Connectome, SynapseSource]:
    """A connectome with the neurons, and indptr, indices, count and sign as a source of synapses: weight = count (uint16),
    psp = 1, inhibitory = sign of the source < 0."""
    indptr = _integers(archive, archive.array("indptr"), "indptr")
    indices, count = (_integers(archive, archive.column(name), name) for name in ("indices", "count"))
    n = len(indptr) - 1
    sign = _integers(archive, archive.array("sign"), "sign") if "sign" in archive else np.ones(max(n, 0), np.int8)
    if n < 0 or indptr[0] != 0 or indptr[-1] != indices.length:
        ends = f"from {indptr[0]} to {indptr[-1]}" if n >= 0 else "nowhere, being empty"
        raise archive.error(f"'indptr' goes {ends}; it must go from 0 to {indices.length}, the length of 'indices'")
    falls = np.flatnonzero(indptr[1:] < indptr[:-1])
    if falls.size:
        i = int(falls[0]) + 1
        raise archive.error(f"indptr[{i}] = {indptr[i]} is below indptr[{i - 1}] = {indptr[i - 1]}")
    if count.length != indices.length:
        raise archive.error(f"'count' has {count.length} values for {indices.length} of 'indices'")
    if len(sign) != n:
        raise archive.error(f"'sign' has {len(sign)} values for {n} neurons")
    archive.budget.take_network(n, 0)
    network = Connectome(n, weight_dtype=np.uint16)
    network.add_neurons(n, **reading.fields)
    network.set_annotations(_annotations(archive, n))
    return network, CsrSynapses(archive.path, indptr.astype(np.int64), sign < 0)


def _annotations(archive: Archive, n: int) -> Annotations:
    """Arrays of n texts or numbers beside those of the CSR: columns, and the labels where one is called as ids are."""
    labels, found = None, {}
    for name in archive.array_names:
        if name in _OWN:
            continue
        try:
            values = archive.array(name, (n,))
        except FileFormatError:  # of another shape, so it says nothing of each neuron
            continue
        if values.dtype.kind in "iu" and plain(name) in NEURONS["neuron"] and (values >= 0).all() and len(sorted_unique(values)) == n:
            labels = values.astype(np.uint64)
        elif values.dtype.kind in "iubU":
            found[name] = values.astype(np.str_)
    return Annotations(labels, found)


class CsrSynapses(SynapseSource):
    """The synapses of such a file, read anew each time. FileFormatError: ids or counts out of range, damage."""

    def __init__(self, path: Path, indptr: NDArray[np.int64], inhibits: NDArray[np.bool_]) -> None:
        self._path, self._indptr, self._inhibits = path, indptr, inhibits

    @property
    def total(self) -> int:
        return int(self._indptr[-1])

    @property
    def weight_dtype(self) -> CountType:
        return np.uint16

    @property
    def psp_dtype(self) -> CountType:
        return np.uint8

    def __iter__(self) -> Iterator[SynapseBatch]:
        indptr = self._indptr
        with Archive(self._path) as archive:
            indices, count = archive.column("indices", self.total), archive.column("count", self.total)
            for first in range(0, self.total, SYNAPSES_AT_A_TIME):
                last = min(first + SYNAPSES_AT_A_TIME, self.total)
                target, weight = indices.read(last - first), count.read(last - first)
                _within(archive, "indices", target, first, len(indptr) - 2)
                _within(archive, "count", weight, first, 65535)
                low, high = (int(np.searchsorted(indptr, at, side="right")) - 1 for at in (first, last - 1))
                bounds = np.clip(indptr[low : high + 2], first, last)
                source = np.repeat(np.arange(low, high + 1, dtype=np.uint32), bounds[1:] - bounds[:-1])
                yield SynapseBatch.of(
                    source=source,
                    target=target.astype(np.uint32),
                    weight=weight.astype(np.uint16),
                    psp=np.ones(last - first, np.uint8),
                    inhibitory=self._inhibits[source],
                )


def _integers(archive: Archive, array: A, name: str) -> A:
    """An array or a column, seen to be of integers."""
    if array.dtype.kind not in "iu":
        raise archive.error(f"array {name!r} has dtype {array.dtype}, not integers")
    return array


def _within(archive: Archive, name: str, array: NDArray[Any], first: int, high: int) -> None:
    """See that items first, first + 1, ... of an array are in 0..high."""
    if array.size and (int(array.min()) < 0 or int(array.max()) > high):
        i = int(np.argmax((array < 0) | (array > high)))
        raise archive.error(f"{name}[{first + i}] = {array[i]} is outside 0..{high}")


CSR = Format("CSR (array 'indptr')", lambda given: has_array(given, "indptr"), _stream)
