"""Synapses read out of rows, ascending by source, target, age."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, Counts, sorted_unique, spread
from gpu_npu.backends.devices.base import Scratch
from gpu_npu.backends.executor.rows import INHIBITORY, TARGET_MASK, RowStore, pair_order
from gpu_npu.connectome import SynapseBatch


def list_rows(rows: RowStore, ids: U32 | None = None, wanted: U32 | None = None) -> Iterator[SynapseBatch]:
    """Synapses of rows `ids` (ascending; None: all), with `wanted` (bits) only those to these targets, in batches."""
    if rows.neurons == 0 or (ids is not None and not len(ids)):
        return
    with rows.device.scratch() as scratch:
        bits = None if wanted is None else scratch.uploaded(wanted)
        first = _begins(rows, ids, bits)
        for low, high in rows.pieces(first):
            if first[high] > first[low]:
                yield _piece(rows, ids, low, high, first, bits)


def rows_of(rows: RowStore, chosen: NDArray[np.bool_]) -> U32:
    """The rows, ascending, of these synapses; one flag for each in the order of `list_rows(rows)`."""
    first = _begins(rows, None, None)
    return sorted_unique(np.searchsorted(first, np.flatnonzero(chosen), side="right") - 1).astype(np.uint32)


def first_column(rows: RowStore, values: NDArray[np.uint16] | None = None) -> Iterator[NDArray[np.uint16]]:
    """Column 0 of every synapse in the order of `list_rows(rows)`, 0 where a row has none; or set it to these values, which come
    back."""
    first = _begins(rows, None, None)
    for low, high in rows.pieces(first):
        count, n = int(first[high] - first[low]), high - low
        with rows.device.scratch() as scratch:
            starts = scratch.uploaded((first[low:high] - first[low]).astype(np.uint64))
            out, cells = _columns(rows, scratch, count), scratch.alloc(count, np.uint16)
            rows.context.launch("list_synapses", n=n, base=low, first=starts, **out, items=n)
            source, packed = (rows.device.fetched(out[name], count) for name in ("source", "target"))
            order = pair_order(source, packed & TARGET_MASK)
            order = np.arange(count) if order is None else order
            if values is not None:
                as_they_lie = np.empty(count, np.uint16)
                as_they_lie[order] = values[first[low] : first[high]]
                rows.device.upload(cells, as_they_lie)
            rows.context.launch("copy_column", n=n, base=low, first=starts, values=cells, stores=int(values is not None), items=n)
            yield rows.device.fetched(cells, count)[order]


@contextmanager
def room_to_hold_back(rows: RowStore) -> Iterator[Callable[[int, Counts], None]]:
    """All that it takes to let the next burst deliver weights, in the order of `list_rows(rows)`, that burst t (as rules count) has
    changed. Rows may move meanwhile; which synapses there are stays."""
    first = _begins(rows, None, None)
    pieces = rows.pieces(first)
    most = max((int(first[high] - first[low]) for low, high in pieces), default=0)
    with rows.device.scratch() as scratch:
        starts, out = scratch.alloc(max((high - low for low, high in pieces), default=0), np.uint64), _columns(rows, scratch, most)

        def hold_back(t: int, weight: Counts) -> None:
            for low, high in pieces:
                count, n = int(first[high] - first[low]), high - low
                rows.device.upload(starts, (first[low:high] - first[low]).astype(np.uint64))
                rows.context.launch("list_synapses", n=n, base=low, first=starts, **out, items=n)
                source, packed = (rows.device.fetched(out[name], count) for name in ("source", "target"))
                order = pair_order(source, packed & TARGET_MASK)
                as_they_lie = np.empty(count, weight.dtype)
                as_they_lie[slice(None) if order is None else order] = weight[first[low] : first[high]]
                rows.device.upload(out["weight"], as_they_lie)
                rows.context.launch("hold_back", t=t, n=n, base=low, first=starts, weight=out["weight"], items=n)
                rows.device.wait()  # before the next piece is written over this one

        yield hold_back


def _begins(rows: RowStore, ids: U32 | None, bits: Any) -> NDArray[np.int64]:
    """Of rows `ids`, or all: where the synapses of each begin, and all end, when they are listed."""
    n = rows.neurons if ids is None else len(ids)
    with rows.device.scratch() as scratch:
        on_device, counts = None if ids is None else scratch.uploaded(ids), scratch.alloc(n, np.uint32)
        rows.context.launch("list_synapses", n=n, ids=on_device, base=0, wanted=bits, count=counts, items=n)
        return np.concatenate(([0], np.cumsum(rows.device.fetched(counts, n), dtype=np.int64)))


def _columns(rows: RowStore, scratch: Scratch, count: int) -> dict[str, Any]:
    """Device arrays for so many synapses."""
    dtypes = {"source": np.dtype(np.uint32), "target": np.dtype(np.uint32), "weight": rows.dtypes[0], "psp": rows.dtypes[1]}
    if rows.delays.several:
        dtypes["delay"] = rows.delays.known.dtype
    return {name: scratch.alloc(count, dtype) for name, dtype in dtypes.items()}


def _piece(rows: RowStore, ids: U32 | None, low: int, high: int, first: NDArray[np.int64], bits: Any) -> SynapseBatch:
    count, n = int(first[high] - first[low]), high - low
    with rows.device.scratch() as scratch:
        on_device = None if ids is None else scratch.uploaded(ids[low:high])
        starts, out = scratch.uploaded((first[low:high] - first[low]).astype(np.uint64)), _columns(rows, scratch, count)
        rows.context.launch("list_synapses", n=n, ids=on_device, base=low, wanted=bits, first=starts, **out, items=n)
        source, packed, weight, psp, *delays = (rows.device.fetched(array, count) for array in out.values())
    delay = delays[0] if delays else spread(rows.delays.known[0], count, rows.delays.known.dtype)
    batch = SynapseBatch(source, packed & TARGET_MASK, weight, psp, (packed & INHIBITORY) != 0, delay)
    order = pair_order(source, batch.target)
    return batch if order is None else batch.take(order)
