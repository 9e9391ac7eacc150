"""What users know of neurons: their own ids (labels), and columns such as a cell type. Kept on the host, never on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, Indices, sorted_unique
from gpu_npu.checks import as_array, check_integer, check_kind, check_listed, check_map
from gpu_npu.errors import NetworkError
from gpu_npu.objects import described

MOST_IN_BUCKET = 4
"""Labels that are looked through one by one."""


@dataclass(frozen=True, repr=False, eq=False)
class Annotations:
    """Labels and columns of neurons 0, 1, ...; neurons that were added later have none.

    labels : (n,) uint64 or text, each once; None: neurons are named by their ids alone.
    columns : name -> (n,) text; "" where nothing is known.
    """

    labels: NDArray[Any] | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in {"labels": self.labels, **check_map(self.columns, "columns")}.items():
            if values is not None or name != "labels":
                check_kind(values, np.ndarray, name)
        if self.labels is not None and (self.labels.ndim != 1 or self.labels.dtype.kind not in "uU"):
            raise NetworkError(f"labels: {self.labels.dtype} of shape {self.labels.shape}, where uint64 or text, flat, is needed")
        if self.labels is not None and len(sorted_unique(self.labels)) != len(self.labels):
            ordered = np.sort(self.labels)
            twice = ordered[1:][ordered[1:] == ordered[:-1]][0]
            raise NetworkError(f"labels: {twice.item()!r} names two neurons")
        for name, values in self.columns.items():
            if values.ndim != 1 or values.dtype.kind != "U" or len(values) != len(self):
                raise NetworkError(f"column {name!r}: {values.dtype} of shape {values.shape}, where {len(self):,} texts are needed")

    def __repr__(self) -> str:
        kind = "no labels" if self.labels is None else "names" if self.labels.dtype.kind == "U" else "labels of 64 bits"
        return described(self, f"{len(self):,} neurons with {kind}, columns: {', '.join(self.columns) or 'none'}")

    def __len__(self) -> int:
        """Neurons that have a label or a place in the columns."""
        first = next(iter(self.columns.values()), None) if self.labels is None else self.labels
        return 0 if first is None else len(first)

    def __bool__(self) -> bool:
        return self.labels is not None or bool(self.columns)

    @cached_property
    def _order(self) -> Indices | None:
        """What puts the labels in ascending order; None where they are."""
        known = self._known
        return None if bool((known[1:] >= known[:-1]).all()) else np.argsort(known, kind="stable")

    @cached_property
    def _ascending(self) -> NDArray[Any]:
        """The labels in ascending order: looking through `_order` for each step of a search takes four times as long."""
        return self._known if self._order is None else self._known[self._order]

    @cached_property
    def _buckets(self) -> _Buckets:
        return _Buckets(self._ascending)

    @property
    def _known(self) -> NDArray[Any]:
        return np.zeros(0, np.uint64) if self.labels is None else self.labels

    def positions(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """The id of the neuron that has each label, -1 where none has."""
        known, labels = self._known, np.atleast_1d(as_array(labels, "labels"))
        if labels.ndim != 1 or labels.dtype.kind not in "iuU":
            raise NetworkError(f"labels: {labels.dtype} of shape {labels.shape}, where integers or text, flat, are needed")
        wanted = labels.astype(str) if known.dtype.kind == "U" and labels.dtype.kind != "U" else labels
        if known.dtype.kind == "u" and wanted.dtype.kind == "U" and all(text.isdecimal() and int(text) < 2**64 for text in wanted.tolist()):
            wanted = np.array([int(text) for text in wanted.tolist()], np.uint64)
        if not len(known) or (wanted.dtype.kind == "U") != (known.dtype.kind == "U"):
            return np.full(len(labels), -1, np.int64)
        if known.dtype.kind == "u":
            wanted = wanted.astype(np.uint64)  # -1 is 2^64 - 1, until it is seen below
        at = np.searchsorted(self._ascending, wanted) if known.dtype.kind == "U" else self._buckets.positions(wanted)
        at = np.minimum(at, len(known) - 1)
        place = at if self._order is None else self._order.take(at)
        hit = self._ascending.take(at) == wanted
        hit &= labels >= 0 if labels.dtype.kind == "i" else True
        return place if hit.all() else np.where(hit, place, -1)

    @property
    def finder(self) -> Callable[[NDArray[Any], str], U32] | None:
        """`find`, for `check_ids`; None where neurons have no labels."""
        return None if self.labels is None else self.find

    def find(self, labels: NDArray[Any], what: str = "neurons") -> U32:
        """The same, each of them found. NetworkError: a label that no neuron has."""
        found = self.positions(labels)
        lost = np.flatnonzero(found < 0)
        if lost.size:
            label = np.atleast_1d(labels)[lost[0]].item()
            raise NetworkError(f"{what}: no neuron of this network has the label {label!r}")
        return found.astype(np.uint32)

    def name(self, neuron: int) -> str:
        """A neuron as its user knows it: the label, or the id after a #."""
        neuron = check_integer(neuron, "neuron")
        return str(self._known[neuron]) if neuron < len(self._known) else f"#{neuron}" if self.labels is not None else str(neuron)

    def select(self, column: str, values: tuple[str, ...]) -> U32:
        """Ids of the neurons that have one of these values in a column. NetworkError: no such column, or a value that none has."""
        values = check_listed(values, "values")
        if check_kind(column, str, "column") not in self.columns:
            known = ", ".join(self.columns) or "none"
            raise NetworkError(f"{column!r} is no column of this network's neurons; its columns: {known}")
        there = self.columns[column]
        for value in values:
            check_kind(value, str, f"a value of {column!r}")
            if not (there == value).any():
                some = [one for one in sorted_unique(there).tolist() if one]
                shown = ", ".join(some[:12]) + (f" and {len(some) - 12:,} more" if len(some) > 12 else "")
                raise NetworkError(f"no neuron has {column}={value}; there are: {shown}")
        return np.flatnonzero(np.isin(there, values)).astype(np.uint32)


class _Buckets:
    """Where to look for a number among ascending ones: by its upper bits, of which there are about twice as many as numbers.

    Two looks into tables in place of a binary search; where numbers lie in lumps, a search for sorted values."""

    def __init__(self, ascending: NDArray[np.uint64]) -> None:
        self._ascending, self._low = ascending, ascending[:1]
        self._span = int(ascending[-1] - ascending[0])
        self._shift = np.uint64(max(self._span.bit_length() - len(ascending).bit_length() - 1, 0))
        keys = (ascending - self._low) >> self._shift
        self._first = np.searchsorted(keys, np.arange(int(keys[-1]) + 1, dtype=np.uint64))
        sizes = np.diff(self._first, append=len(ascending))
        self._even = bool((sizes * sizes).sum() <= MOST_IN_BUCKET * len(ascending))

    def __repr__(self) -> str:
        return described(self, f"{len(self._ascending):,} numbers in {len(self._first):,} buckets")

    def positions(self, wanted: NDArray[np.uint64]) -> Indices:
        """Where each of these is, if it is there."""
        at: Indices = np.zeros(len(wanted), np.int64)
        left = np.arange(len(wanted))
        if self._even:
            bucket = np.minimum(wanted - self._low, np.uint64(self._span)) >> self._shift
            at = self._first.take(bucket.view(np.int64))
            left = np.flatnonzero(self._ascending.take(at) < wanted)
            for _ in range(MOST_IN_BUCKET):
                at[left] = np.minimum(at[left] + 1, len(self._ascending) - 1)
                left = left[self._ascending[at[left]] < wanted[left]]
        left = left[np.argsort(wanted[left])]  # a search for ascending values keeps to the cache
        at[left] = np.searchsorted(self._ascending, wanted[left])
        return at
