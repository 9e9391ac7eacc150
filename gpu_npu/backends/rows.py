"""The synapses on the device: one block of an arena for each source, and a table that says where.

The host decides where rows go, the kernels of indexing.cu move and edit them; the table and the blocks exist on the
device only. Blocks fill the arena from the front. A row that outgrows its block moves to the end with some room to grow,
which abandons the old block; when the arena is full, either everything is slid together (compaction) or the arena grows,
whichever the amount of waste asks for. Nothing depends on where a row lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpu_npu.arrays import U32
from gpu_npu.backends.devices.base import Device, Launch
from gpu_npu.backends.layout import (
    BLOCK_ALIGNMENT,
    CONSTANTS,
    PSP_EACH,
    ROW_DTYPE,
    SCRATCH_BYTES,
    TAIL_KEY_BYTES,
    UPLOAD_SYNAPSES,
)
from gpu_npu.connectome import SynapseBatch, SynapseSource
from gpu_npu.connectome.synapses import Procedure
from gpu_npu.errors import CapacityError, DeviceMemoryError, NetworkError

FEW = 64
"""Up to so many items one block is launched: waking other cores takes a CPU longer than the work, and a GPU does not care."""
MAX_ROW = 2**31 - 1
"""Synapses of a row: kernels count them in 32 bits, with some to spare."""
MAX_IN_DEGREE = 2**32 - 1
"""A burst counts the arrivals of a neuron in 32 bits."""
INHIBITORY = np.uint32(CONSTANTS["SYNAPSE_INHIBITORY"])
TARGET_MASK = np.uint32(CONSTANTS["TARGET_MASK"])

Rows = NDArray[np.void]
"""Entries of the row table, dtype ROW_DTYPE."""


def pair_order(source: U32, target: U32) -> NDArray[np.intp] | None:
    """The stable order by (source, target), or None where the pairs are in it already."""
    key = source.astype(np.uint64) << np.uint64(32) | target
    if len(key) < 2 or bool((key[1:] >= key[:-1]).all()):
        return None
    order = np.argsort(key)  # not stable, but twice as fast; runs of equal pairs are few and put right below
    key = key[order]
    equal = key[1:] == key[:-1]
    if equal.any():
        tied = np.concatenate((equal, [False])) | np.concatenate(([False], equal))
        order[tied] = order[tied][np.lexsort((order[tied], key[tied]))]
    return order


def runs(values: U32) -> NDArray[np.int64]:
    """Where each run of equal values begins, and the end of the last."""
    return np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1, [len(values)]))


def _packed(target: U32, inhibitory: NDArray[np.bool_]) -> U32:
    """Targets as they lie in rows."""
    return target | np.where(inhibitory, INHIBITORY, np.uint32(0))


def _too_many(neuron: int, count: int) -> CapacityError:
    return CapacityError(f"neuron {neuron}: {count:,} synapses leave it, a row holds {MAX_ROW:,}; let several neurons share them")


def _check_degrees(out_degree: NDArray[np.int64], in_degree: U32, total: int) -> None:
    """CapacityError where a row or the arrivals of a burst cannot be counted in 32 bits. Counts that wrapped do not sum up."""
    if int(out_degree.max()) > MAX_ROW:
        raise _too_many(int(out_degree.argmax()), int(out_degree.max()))
    for what, degrees in (("leave", out_degree), ("end in", in_degree)):
        if int(degrees.sum(dtype=np.int64)) != total:
            raise CapacityError(f"more than {MAX_IN_DEGREE:,} synapses {what} one neuron; let several neurons share them")


class RowStore:
    """Row table and arena of one network on one device."""

    def __init__(
        self, device: Device, state: NDArray[np.void], neurons: int, arena_bytes: int, weight_dtype: DTypeLike, psp_dtype: DTypeLike
    ) -> None:
        self._device = device
        self._state = state
        self._dtypes = (np.dtype(weight_dtype), np.dtype(psp_dtype))
        self._bytes_one = 4 + self._dtypes[0].itemsize
        self._bytes_each = self._bytes_one + self._dtypes[1].itemsize
        self._neurons = neurons
        self._table, self._arena = device.alloc_all([(neurons, ROW_DTYPE), (self._whole(arena_bytes), np.uint8)])
        self._end = 0  # first unit of the arena that no row has claimed
        self._abandoned = 0  # units below it that rows have moved away from
        self._removed = 0  # removed synapses that still hold a slot
        self.count = 0
        self.forget_statistics()
        self._bind()

    @staticmethod
    def _whole(size: int) -> int:
        return -(-size // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT

    def _bind(self) -> None:
        self._state["rows"] = self._device.address(self._table)
        self._state["arena"] = self._device.address(self._arena)

    @property
    def state(self) -> NDArray[np.void]:
        """The State in which table and arena are."""
        return self._state

    def free(self) -> None:
        """Give the memory back; the store is of no more use."""
        self._device.release(self._table, self._arena)

    @property
    def nbytes(self) -> int:
        """Everything of the rows: table, blocks, padding, slack."""
        return int(self._table.nbytes + self._arena.nbytes)

    def forget_statistics(self) -> None:
        """What was counted so far belongs to the load, not to edits."""
        self.rows_moved = self.compactions = self.bytes_compacted = self.growths = self.bytes_grown = 0

    # -- small helpers ---------------------------------------------------------------------------------------------
    def _launch(self, kernel: str, *args: Any, items: int) -> None:
        self._device.launch([Launch(kernel, args, single=items <= FEW)])

    def _read(self, ids: U32) -> Rows:
        """Table entries of these rows."""
        with self._device.lent() as lent:
            on_device, out = lent.uploaded(ids), lent.alloc(len(ids), ROW_DTYPE)
            self._launch("gather_values", np.uint64(len(ids)), on_device, self._table, np.uint32(ROW_DTYPE.itemsize), out, items=len(ids))
            return self._device.fetched(out, len(ids))

    def longest_tail(self, ids: U32) -> int:
        """Slots of these rows that are not sorted by target: the most of a row."""
        rows = self._read(ids)
        return int((rows["length"] - rows["sorted"]).max(initial=0))

    def _read_all(self) -> Rows:
        return self._device.fetched(self._table, self._neurons)

    def _slot_bytes(self, rows: Rows) -> NDArray[np.int64]:
        columns = rows["columns"].astype(np.int64)
        slots: NDArray[np.int64] = np.where(rows["psp"] == PSP_EACH, self._bytes_each, self._bytes_one) + 2 * columns
        return slots

    def _units(self, rows: Rows, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Units of BLOCK_ALIGNMENT bytes for so many slots of each row."""
        units: NDArray[np.int64] = -(-slots * self._slot_bytes(rows) // BLOCK_ALIGNMENT)
        return units

    # -- building --------------------------------------------------------------------------------------------------
    def build(self, sources: Sequence[SynapseSource]) -> int:
        """Make all rows at once, in a store that has none: the synapses of these sources, oldest first, in rows without room to
        grow, sorted by target. Returns the largest in-degree.

        Each source is read twice, batch by batch: to count, then to place. On the device that takes, beside the rows, a chunk
        of UPLOAD_SYNAPSES synapses, 4 bytes a neuron while they are counted, then the scratch of a compaction; on the host a
        batch and some 100 bytes a neuron. NetworkError: a source was not the same the second time. CapacityError: more
        than MAX_ROW synapses leave a neuron, or more than MAX_IN_DEGREE end in one.
        """
        total = sum(source.total for source in sources)
        if total == 0:
            return 0
        with self._device.lent() as lent:
            chunk = lent.alloc_all([(min(total, UPLOAD_SYNAPSES), dtype) for dtype in (np.uint32, np.uint32, *self._dtypes)])
            source, target, weight, psp = chunk
            other_psp = lent.alloc(1, np.uint32)
            with self._device.lent() as shorter:
                arrivals = shorter.alloc(self._neurons, np.uint32)
                for count in self._chunks(sources, chunk):
                    self._launch("count_synapses", self._state, np.uint64(count), source, target, psp, arrivals, items=count)
                in_degree = self._device.fetched(arrivals, self._neurons)
            rows = self._read_all()
            counted = rows["capacity"].astype(np.int64)
            _check_degrees(counted, in_degree, total)
            self._place(rows)
            for count in self._chunks(sources, chunk):
                self._launch("claim_slots", self._state, np.uint64(count), source, items=count)
                self._launch("fill_rows", self._state, target, weight, psp, other_psp, items=self._neurons)
            changed = bool(self._device.fetched(other_psp, 1)[0]) or not np.array_equal(self._read_all()["length"], counted)
        if changed:
            raise NetworkError("a source of synapses gave others the second time; it has to be the same each time")
        self.count = total
        self.compact()
        return int(in_degree.max())

    def _chunks(self, sources: Sequence[SynapseSource], chunk: Sequence[Any]) -> Iterator[int]:
        """Fill the device arrays (source, target, weight, psp) with the synapses in turn; yields how many are there."""
        size = chunk[0].size
        for source in sources:
            if (procedure := source.procedure()) is not None:
                for first in range(0, source.total, size):
                    count = min(size, source.total - first)
                    self._generate(procedure, first, count, chunk)
                    yield count
                continue
            for batch in source:
                for first in range(0, len(batch), size):
                    part = slice(first, first + size)
                    target = _packed(batch.target[part], batch.inhibitory[part])
                    hosts = [np.ascontiguousarray(host) for host in (batch.source[part], target, batch.weight[part], batch.psp[part])]
                    for array, host in zip(chunk, hosts, strict=True):
                        self._device.upload(array, host)
                    yield len(target)
                    self._device.wait()  # the host arrays are done with

    def _generate(self, procedure: Procedure, first: int, count: int, chunk: Sequence[Any]) -> None:
        """Synapses first to first + count - 1 of the source into the arrays; no host need see them."""
        span = np.uint64(first), np.uint64(count)
        self._launch(procedure.kernel, self._state, *span, *procedure.arguments.values(), *chunk, items=count)

    def _place(self, rows: Rows) -> None:
        """Turn counts (count_synapses) into entries of empty rows with a block each, in the order of the sources."""
        counted = rows["capacity"].astype(np.int64)
        rows["psp"] = np.where(rows["psp"] == PSP_EACH, rows["psp"], np.maximum(rows["psp"], 1) - 1)
        units = self._units(rows, counted)
        ends = np.cumsum(units)
        rows["offset"] = np.where(units > 0, ends - units, 0)
        rows["capacity"] = units * BLOCK_ALIGNMENT // self._slot_bytes(rows)
        self._end = int(ends[-1])
        if self._end * BLOCK_ALIGNMENT > self._arena.nbytes:
            # Nothing is in it, so it need not be there beside the larger one; should there be no room for that, none is there.
            old, self._arena = self._arena, self._device.alloc(0, np.uint8)
            self._device.release(old)
            self._arena = self._device.alloc(self._end * BLOCK_ALIGNMENT, np.uint8)
            self._bind()
        self._device.upload(self._table, rows)
        self._device.wait()

    # -- adding ----------------------------------------------------------------------------------------------------
    def add(self, batch: SynapseBatch) -> None:
        """Add synapses in the order of their age. CapacityError: more than MAX_ROW slots in a row."""
        if not len(batch):
            return
        if (order := pair_order(batch.source, batch.target)) is not None:
            batch = batch.take(order)
        target, weight, psp = _packed(batch.target, batch.inhibitory), batch.weight, batch.psp
        first = runs(batch.source)
        ids = batch.source[first[:-1]]
        old, planned, moves, end = self._plan(ids, first, psp)

        # Everything that can fail for want of memory comes before the first change.
        pieces = self._pieces(first)
        widest = max(int(first[high] - first[low]) for low, high in pieces)
        rows = max(high - low for low, high in pieces)
        sizes = (rows, rows, rows + 1, widest, widest, widest)
        dtypes = (np.uint32, ROW_DTYPE, np.uint32, np.uint32, *self._dtypes)
        with self._device.lent() as lent:
            buffers = lent.alloc_all(zip(sizes, dtypes, strict=True))
            for low, high in pieces:
                span = slice(first[low], first[high])
                offsets = (first[low : high + 1] - first[low]).astype(np.uint32)
                parts = (ids[low:high], planned[low:high], offsets, target[span], weight[span], psp[span])
                for buffer, host in zip(buffers, parts, strict=True):
                    self._device.upload(buffer, np.ascontiguousarray(host))
                self._launch("append_synapses", self._state, np.uint64(high - low), *buffers, items=high - low)
        self._account(old, planned, moves, end)
        self.count += len(batch)

    def _account(self, old: Rows, planned: Rows, moves: NDArray[np.bool_], end: int) -> None:
        """Rows are as planned now, those that moved in new blocks up to `end`."""
        self._end = end
        self._abandoned += int(self._units(old, old["capacity"].astype(np.int64))[moves].sum())
        squeezed = planned["length"] == planned["valid"]  # as are all that moved
        self._removed -= int((old["length"] - old["valid"].astype(np.int64))[squeezed].sum())
        self.rows_moved += int(np.count_nonzero(moves & (old["length"] > 0)))

    @staticmethod
    def _pieces(first: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Ranges of runs that hold at most UPLOAD_SYNAPSES items each, or are one longer run; a run is a row, or what is added
        to one, of at most MAX_ROW items, so that offsets inside a piece fit 32 bits."""
        pieces, low = [], 0
        while low < len(first) - 1:
            high = max(int(np.searchsorted(first, first[low] + UPLOAD_SYNAPSES, side="right")) - 1, low + 1)
            pieces.append((low, high))
            low = high
        return pieces

    def _plan(self, ids: U32, first: NDArray[np.int64], psp: NDArray[Any]) -> tuple[Rows, Rows, NDArray[np.bool_], int]:
        """Entries of the rows `ids` before and after the addition, which of them move, and where the last of those will end in
        the arena, which is made large enough."""
        added = np.diff(first)
        lowest, highest = (extreme.reduceat(psp, first[:-1]).astype(np.uint32) for extreme in (np.minimum, np.maximum))
        while True:
            old = self._read(ids)
            if int((old["length"] + added).max()) > MAX_ROW:
                raise _too_many(int(ids[np.argmax(old["length"] + added)]), int((old["length"] + added).max()))
            planned = old.copy()
            planned["valid"] = old["valid"] + added
            one_psp = (lowest == highest) & ((old["valid"] == 0) | (old["psp"] == lowest))
            planned["psp"] = np.where(one_psp, lowest, np.uint32(PSP_EACH))

            same_slots = (old["psp"] == PSP_EACH) == ~one_psp
            in_place = same_slots & (old["length"] + added <= old["capacity"])
            moves = ~(in_place | (same_slots & (planned["valid"] <= old["capacity"])))  # the rest is squeezed in place
            planned["length"] = np.where(in_place, old["length"] + added, planned["valid"])

            slots = planned["valid"].astype(np.int64)
            units = np.where(moves, self._units(planned, slots + np.maximum(slots // 32, 2)), 0)
            ends = self._end + np.cumsum(units)
            if not len(ends) or int(ends[-1]) * BLOCK_ALIGNMENT <= self._arena.nbytes:
                break
            self._make_room(int(ends[-1]) - self._end)
        planned["offset"] = np.where(moves, ends - units, old["offset"])
        planned["capacity"] = np.where(moves, units * BLOCK_ALIGNMENT // self._slot_bytes(planned), old["capacity"])
        return old, planned, moves, int(ends[-1])

    def _make_room(self, units: int) -> None:
        """At least `units` more at the end: by compaction where waste is a sixteenth of the arena and enough, else by growth."""
        size = self._arena.nbytes // BLOCK_ALIGNMENT
        waste = self._abandoned + self._removed * self._bytes_one // BLOCK_ALIGNMENT
        if waste >= max(units, size // 16):
            self.compact()
        if self._end + units <= size:
            return
        try:
            self._grow(max(self._end + units, size + size // 16))
        except DeviceMemoryError:  # less will do
            if self._abandoned or self._removed:
                self.compact()
            if self._end + units > size:
                self._grow(self._end + units)

    def _grow(self, units: int) -> None:
        self._move_to(self._table, self._device.alloc(units * BLOCK_ALIGNMENT, np.uint8))
        self.growths += 1
        self.bytes_grown += self._end * BLOCK_ALIGNMENT

    def _move_to(self, table: Any, arena: Any) -> None:
        """Copy what is there to a larger table or arena (or the present ones), and give the old ones back."""
        old = []
        if table is not self._table:
            self._device.copy(table, 0, self._table, 0, self._neurons)
            old.append(self._table)
        if arena is not self._arena:
            self._device.copy(arena, 0, self._arena, 0, self._end * BLOCK_ALIGNMENT)
            old.append(self._arena)
        self._device.release(*old)
        self._table, self._arena = table, arena
        self._bind()

    def reserve(self, neurons: int, arena_bytes: int) -> None:
        """Grow the table to `neurons` rows and the arena to at least `arena_bytes`: both or, for want of memory, neither."""
        more_rows, more_bytes = neurons > self._neurons, self._whole(arena_bytes) > self._arena.nbytes
        wanted: list[tuple[int, DTypeLike]] = [(neurons, ROW_DTYPE)] * more_rows + [(self._whole(arena_bytes), np.uint8)] * more_bytes
        fresh = iter(self._device.alloc_all(wanted))
        self._move_to(next(fresh) if more_rows else self._table, next(fresh) if more_bytes else self._arena)
        self._neurons = max(neurons, self._neurons)
        if more_bytes:
            self.growths += 1
            self.bytes_grown += self._end * BLOCK_ALIGNMENT

    def set_columns(self, ids: U32, columns: int) -> None:
        """Give every slot of these rows (ascending) so many columns of u16: what they had stays as far as it goes, more are
        0. Rows that had others move; rows without synapses will have them as soon as they have any."""
        while len(ids):
            # An eighth of the arena at a time: what has moved is slid together before much has piled up.
            rows = self._read(ids[:UPLOAD_SYNAPSES])
            ends = np.cumsum(self._units(rows, rows["valid"].astype(np.int64)))
            count = max(int(np.searchsorted(ends, max(self._end // 8, 2**12))), 1)
            self._set_columns(ids[:count], columns)
            ids = ids[count:]

    def _set_columns(self, ids: U32, columns: int) -> None:
        while True:
            old = self._read(ids)
            if not (old["columns"] != columns).all():
                ids = ids[old["columns"] != columns]
                continue
            planned = old.copy()
            planned["columns"] = columns
            planned["length"] = planned["valid"]
            units = self._units(planned, planned["valid"].astype(np.int64))
            ends = self._end + np.cumsum(units)
            if not len(ends) or int(ends[-1]) * BLOCK_ALIGNMENT <= self._arena.nbytes:
                break
            self._make_room(int(ends[-1]) - self._end)
        if not len(ids):
            return
        planned["offset"] = ends - units
        planned["capacity"] = units * BLOCK_ALIGNMENT // self._slot_bytes(planned)
        with self._device.lent() as lent:
            on_device, entries, none_added = lent.uploaded(ids), lent.uploaded(planned), lent.alloc(len(ids) + 1, np.uint32)
            rows = (np.uint64(len(ids)), on_device, entries, none_added)
            self._launch("append_synapses", self._state, *rows, None, None, None, items=len(ids))
        self._account(old, planned, np.ones(len(ids), np.bool_), int(ends[-1]))

    # -- removing and reweighting ----------------------------------------------------------------------------------
    def edit(self, source: U32, target: U32, weight: NDArray[Any] | None) -> NDArray[np.bool_]:
        """Remove (weight None) or reweight the oldest synapse of each pair, one by one; says which there were."""
        if not len(source):
            return np.zeros(0, np.bool_)
        if len(source) > MAX_ROW:
            raise CapacityError(f"{len(source):,} pairs in one call, at most {MAX_ROW:,} are taken; edit in several")
        order = np.argsort(source, kind="stable")
        ordered = source[order]
        first = runs(ordered)
        there: NDArray[np.bool_] = np.empty(len(source), np.bool_)
        with self._device.lent() as lent:
            arrays = [lent.uploaded(host) for host in (ordered[first[:-1]], first.astype(np.uint32), target[order])]
            weights = None if weight is None else lent.uploaded(weight[order])
            found = lent.alloc(len(source), np.uint8)
            self._launch("edit_synapses", self._state, np.uint64(len(first) - 1), *arrays, weights, found, items=len(first) - 1)
            there[order] = self._device.fetched(found, len(source)).view(np.bool_)
        if weight is None:
            removed = int(np.count_nonzero(there))
            self._removed += removed
            self.count -= removed
        return there

    # -- listing ---------------------------------------------------------------------------------------------------
    def list(self, ids: U32 | None = None, wanted: U32 | None = None) -> Iterator[SynapseBatch]:
        """Synapses of rows `ids` (ascending; None: all), with `wanted` (bits) only those to these targets, in batches.
        Ascending by source, target, age."""
        n = self._neurons if ids is None else len(ids)
        if n == 0:
            return
        with self._device.lent() as lent:
            bits = None if wanted is None else lent.uploaded(wanted)
            first = self._counted(ids, bits)
            for low, high in self._pieces(first):
                if first[high] > first[low]:
                    yield self._list_piece(ids, low, high, first, bits)

    def _counted(self, ids: U32 | None, bits: Any) -> NDArray[np.int64]:
        """Of rows `ids`, or all: where the synapses of each begin, and all end, when they are listed."""
        n = self._neurons if ids is None else len(ids)
        with self._device.lent() as lent:
            on_device, counts = None if ids is None else lent.uploaded(ids), lent.alloc(n, np.uint32)
            self._launch("list_synapses", self._state, np.uint64(n), on_device, np.uint32(0), bits, counts, *(None,) * 5, items=n)
            return np.concatenate(([0], np.cumsum(self._device.fetched(counts, n), dtype=np.int64)))

    def _list_piece(self, ids: U32 | None, low: int, high: int, first: NDArray[np.int64], bits: Any) -> SynapseBatch:
        count, n = int(first[high] - first[low]), np.uint64(high - low)
        with self._device.lent() as lent:
            rows = None if ids is None else lent.uploaded(ids[low:high])
            starts = lent.uploaded((first[low:high] - first[low]).astype(np.uint64))
            out = [lent.alloc(count, dtype) for dtype in (np.uint32, np.uint32, *self._dtypes)]
            self._launch("list_synapses", self._state, n, rows, np.uint32(low), bits, None, starts, *out, items=high - low)
            source, packed, weight, psp = (self._device.fetched(array, count) for array in out)
        batch = SynapseBatch(source, packed & TARGET_MASK, weight, psp, (packed & INHIBITORY) != 0)
        order = pair_order(source, batch.target)
        return batch if order is None else batch.take(order)

    def rows_of(self, chosen: NDArray[np.bool_]) -> U32:
        """The rows, ascending, of these synapses; one flag for each in the order of `list()`."""
        first = self._counted(None, None)
        return np.unique(np.searchsorted(first, np.flatnonzero(chosen), side="right") - 1).astype(np.uint32)

    def first_column(self, values: NDArray[np.uint16] | None = None) -> Iterator[NDArray[np.uint16]]:
        """Column 0 of every synapse in the order of `list()`, 0 where a row has none; or set it to these values, which come
        back."""
        first = self._counted(None, None)
        for low, high in self._pieces(first):
            count = int(first[high] - first[low])
            with self._device.lent() as lent:
                starts = lent.uploaded((first[low:high] - first[low]).astype(np.uint64))
                out = [lent.alloc(count, dtype) for dtype in (np.uint32, np.uint32, *self._dtypes)]
                cells = lent.alloc(count, np.uint16)
                rows = (np.uint64(high - low), np.uint32(low))
                self._launch("list_synapses", self._state, rows[0], None, rows[1], None, None, starts, *out, items=high - low)
                source, packed = (self._device.fetched(array, count) for array in out[:2])
                order = pair_order(source, packed & TARGET_MASK)
                order = np.arange(count) if order is None else order
                if values is not None:
                    as_they_lie = np.empty(count, np.uint16)
                    as_they_lie[order] = values[first[low] : first[high]]
                    self._device.upload(cells, as_they_lie)
                self._launch("copy_column", self._state, *rows, starts, cells, np.uint32(values is not None), items=high - low)
                yield self._device.fetched(cells, count)[order]

    # -- compaction ------------------------------------------------------------------------------------------------
    def compact(self) -> None:
        """Slide all rows together in the order in which they lie, without removed synapses and without room to grow, each
        sorted by target. Goes through a scratch of bounded size: packed there first, then placed."""
        rows = self._read_all()
        ids = np.flatnonzero(rows["capacity"]).astype(np.uint32)
        ids = ids[np.argsort(rows["offset"][ids])]
        old = rows[ids]
        planned = old.copy()
        planned["length"] = planned["sorted"] = old["valid"]
        units = self._units(old, old["valid"].astype(np.int64))
        ends = np.cumsum(units)
        planned["offset"] = ends - units
        planned["capacity"] = units * BLOCK_ALIGNMENT // self._slot_bytes(old)

        # In scratch a row is followed by a key for each slot of its unsorted tail.
        tail = np.minimum(old["valid"], old["length"] - old["sorted"]).astype(np.int64)
        packed_units = units - (-tail * TAIL_KEY_BYTES // BLOCK_ALIGNMENT)
        packed_ends = np.cumsum(packed_units)
        limit = max(SCRATCH_BYTES // BLOCK_ALIGNMENT, int(packed_units.max(initial=0)))
        parts, low = [], 0
        while low < len(ids):
            begin = int(packed_ends[low] - packed_units[low])
            high = max(int(np.searchsorted(packed_ends, begin + limit, side="right")), low + 1)
            parts.append((low, high, begin))
            low = high
        most = max((high - low for low, high, _ in parts), default=0)
        with self._device.lent() as lent:
            # All that it takes is there before the first row moves.
            scratch = lent.alloc(max(min(limit, int(packed_units.sum())), 1) * BLOCK_ALIGNMENT, np.uint8)
            buffers = lent.alloc_all((most, dtype) for dtype in (np.uint32, ROW_DTYPE, np.uint64, np.uint32))
            on_device, entries, packed, packed_sorted = buffers
            for low, high, begin in parts:
                in_scratch = (packed_ends - packed_units)[low:high] - begin
                hosts = (ids[low:high], planned[low:high], in_scratch.astype(np.uint64))
                for buffer, host in zip(buffers, hosts, strict=False):
                    self._device.upload(buffer, host)
                count = np.uint64(high - low)
                for step in ("pack_rows", "sort_tails"):
                    self._launch(step, self._state, count, on_device, packed, packed_sorted, scratch, items=high - low)
                self._launch("place_rows", self._state, count, on_device, entries, packed, packed_sorted, scratch, items=high - low)
        self._end = int(ends[-1]) if len(ends) else 0
        self._abandoned = self._removed = 0
        self.compactions += 1
        self.bytes_compacted += self._end * BLOCK_ALIGNMENT
