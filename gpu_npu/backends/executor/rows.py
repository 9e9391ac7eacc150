"""The synapses on the device: one block of an arena for each source, and a table that says where.

The host decides where rows go, the kernels of indexing.cu move and edit them; the table and the blocks exist on the
device only. Blocks fill the arena from the front. A row that outgrows its block moves to the end with some room to grow,
which abandons the old block; when the arena is full, either everything is slid together (compaction) or the arena grows,
whichever the amount of waste asks for. Nothing depends on where a row lies.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpu_npu.arrays import U32, U64, Counts, is_spread
from gpu_npu.backends.executor.blocks import Blocks, Compaction, Rows, plan_compaction, plan_sorting
from gpu_npu.backends.executor.context import Context
from gpu_npu.backends.executor.delays import Delays
from gpu_npu.backends.layout import (
    BLOCK_ALIGNMENT,
    CONSTANTS,
    DELAY_EACH,
    PSP_EACH,
    ROW_DTYPE,
    UPLOAD_SYNAPSES,
)
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import SynapseBatch
from gpu_npu.connectome.fields import largest_count
from gpu_npu.errors import CapacityError, DeviceMemoryError

MANY_COMPARISONS = 2**16
"""From so many on it pays to know how many of the synapses that an edit looks at are unsorted."""
SORTED_AT_LEAST = 8
"""A row with several delays is sorted after an edit once more than a part in so many is not: each of its delays looks through that."""
NOT_ONE = 0xFFFFFFFF
"""Row.offset, while synapses are counted, of a row with several delays; as in building.cu."""
MAX_ROW = 2**31 - 1
"""Synapses of a row: kernels count them in 32 bits, with some to spare."""
MAX_IN_DEGREE = 2**32 - 1
"""A burst counts the arrivals of a neuron in 32 bits."""
INHIBITORY = np.uint32(CONSTANTS["SYNAPSE_INHIBITORY"])
TARGET_MASK = np.uint32(CONSTANTS["TARGET_MASK"])


def pair_keys(source: U32, target: U32) -> U64:
    """Each pair as one number; numbers are in the order of (source, target)."""
    return source.astype(np.uint64) << np.uint64(32) | target


def pair_order(source: U32, target: U32) -> NDArray[np.intp] | None:
    """The stable order by (source, target), or None where the pairs are in it already."""
    key = pair_keys(source, target)
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


def gathered(context: Context, ids: U32, array: Any) -> NDArray[np.void]:
    """Items of a device array of structs, by these ids."""
    with context.device.scratch() as scratch:
        on_device, out = scratch.uploaded(ids), scratch.alloc(len(ids), array.dtype)
        size = array.dtype.itemsize
        context.launch("gather_values", n=len(ids), ids=on_device, array=array, size=size, values=out, items=len(ids))
        return context.device.fetched(out, len(ids))


def packed_targets(target: U32, inhibitory: NDArray[np.bool_]) -> U32:
    """Targets as they lie in rows."""
    return target | np.where(inhibitory, INHIBITORY, np.uint32(0))


def too_many(neuron: int, count: int) -> CapacityError:
    return CapacityError(f"neuron {neuron}: {count:,} synapses would leave it, and at most {MAX_ROW:,} can; let several neurons share them")


def check_degrees(out_degree: NDArray[np.int64], in_degree: U32, total: int) -> None:
    """CapacityError where a row or the arrivals of a burst cannot be counted in 32 bits. Counts that wrapped do not sum up."""
    if int(out_degree.max()) > MAX_ROW:
        raise too_many(int(out_degree.argmax()), int(out_degree.max()))
    for what, degrees in (("leave", out_degree), ("end in", in_degree)):
        if int(degrees.sum(dtype=np.int64)) != total:
            raise CapacityError(f"more than {MAX_IN_DEGREE:,} synapses {what} one neuron; let several neurons share them")


class RowStore:
    """Row table and arena of one network on one device."""

    CHUNK = UPLOAD_SYNAPSES
    """Synapses that travel at a time."""

    def __init__(self, context: Context, shape: NetworkShape, arena_bytes: int, edit_bytes: Any) -> None:
        """`edit_bytes`: where kernels count bytes that edits touch (u64, on the device)."""
        self.context, self.device, self.state = context, context.device, context.state
        self.dtypes = (np.dtype(shape.weight_dtype), np.dtype(shape.psp_dtype))
        self.largest_weight = largest_count(shape.weight_dtype)
        self.delays = Delays(context, shape)
        self._blocks = Blocks(shape)
        self.neurons, self.edit_bytes = shape.neuron_capacity, edit_bytes
        sizes: list[tuple[int, DTypeLike]] = [(self.neurons, ROW_DTYPE), (self._whole(arena_bytes), np.uint8)]
        self.table, self.arena = self.device.alloc_all(sizes)
        self._end = 0  # first unit of the arena that no row has claimed
        self._abandoned = 0  # units below it that rows have moved away from
        self._removed = 0  # removed synapses that still hold a slot
        self._longest_tail = 0  # no row has more unsorted synapses
        self._searched = 0  # unsorted synapses that edits have looked at since all rows were sorted
        self.count = 0
        self.forget_statistics()
        self._bind()

    @staticmethod
    def _whole(size: int) -> int:
        return -(-size // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT

    def _bind(self) -> None:
        for name, array in (("rows", self.table), ("arena", self.arena), ("edit_bytes", self.edit_bytes)):
            self.state[name] = self.device.address(array)
        self.state["neurons"] = self.neurons

    def free(self) -> None:
        """Give the memory back; the store is of no more use."""
        self.device.release(self.table, self.arena, *self.delays.arrays.values())

    @property
    def nbytes(self) -> int:
        """Everything of the rows: table, blocks, padding, slack."""
        return int(self.table.nbytes + self.arena.nbytes)

    def forget_statistics(self) -> None:
        """What was counted so far belongs to the load, not to edits."""
        self.rows_moved = self.compactions = self.bytes_compacted = self.growths = self.bytes_grown = 0

    # -- the table -------------------------------------------------------------------------------------------------
    def _read(self, ids: U32) -> Rows:
        """Table entries of these rows."""
        return gathered(self.context, ids, self.table)

    def longest_tail(self, ids: U32) -> int:
        """Slots of these rows that are not sorted by target: the most of a row."""
        rows = self._read(ids)
        return int((rows["length"] - rows["sorted"]).max(initial=0))

    def read_all(self) -> Rows:
        """All entries of the table."""
        return self.device.fetched(self.table, self.neurons)

    # -- making room ---------------------------------------------------------------------------------------------------
    def place(self, rows: Rows) -> None:
        """Turn counts (count_synapses) into entries of empty rows with a block each, in the order of the sources."""
        counted = rows["capacity"].astype(np.int64)
        if self.delays.several:
            rows["delay"] = np.where(rows["offset"] == NOT_ONE, DELAY_EACH, rows["offset"])
        elif len(self.delays.known):
            rows["delay"] = self.delays.known[0]
        rows["psp"] = np.where(rows["psp"] == PSP_EACH, rows["psp"], np.maximum(rows["psp"], 1) - 1)
        units = self._blocks.units(rows, counted)
        ends = self._blocks.fill(rows, units)
        rows["offset"][units == 0] = 0
        self._end = int(ends[-1])
        if self._end * BLOCK_ALIGNMENT > self.arena.nbytes:
            # Nothing is in it, so it need not be there beside the larger one; should there be no room for that, none is there.
            old, self.arena = self.arena, self.device.alloc(0, np.uint8)
            self.device.release(old)
            self.arena = self.device.alloc(self._end * BLOCK_ALIGNMENT, np.uint8)
            self._bind()
        self.device.upload(self.table, rows)
        self.device.wait()

    # -- adding ----------------------------------------------------------------------------------------------------
    def add(self, batch: SynapseBatch) -> None:
        """Add synapses in the order of their age. CapacityError: more than MAX_ROW slots in a row."""
        if not len(batch):
            return
        if (order := pair_order(batch.source, batch.target)) is not None:
            batch = batch.take(order)
        target, weight, psp = packed_targets(batch.target, batch.inhibitory), batch.weight, batch.psp
        first = runs(batch.source)
        ids = batch.source[first[:-1]]
        old, planned, moves, end = self._plan(ids, first, psp, batch.delay)

        # Everything that can fail for want of memory comes before the first change.
        pieces = self.pieces(first)
        widest = max(int(first[high] - first[low]) for low, high in pieces)
        rows = max(high - low for low, high in pieces)
        columns = {"target": target, "weight": weight, "psp": psp} | ({"delay": batch.delay} if self.delays.several else {})
        names = ("ids", "planned", "first", *columns)
        dtypes: list[DTypeLike] = [np.uint32, ROW_DTYPE, np.uint32, *(column.dtype for column in columns.values())]
        with self.device.scratch() as scratch:
            sizes = (rows, rows, rows + 1, *[widest] * len(columns))
            buffers = dict(zip(names, scratch.alloc_all(zip(sizes, dtypes, strict=True)), strict=True))
            for low, high in pieces:
                span = slice(first[low], first[high])
                offsets = (first[low : high + 1] - first[low]).astype(np.uint32)
                parts = (ids[low:high], planned[low:high], offsets, *(column[span] for column in columns.values()))
                for buffer, host in zip(buffers.values(), parts, strict=True):
                    self.device.upload(buffer, np.ascontiguousarray(host))
                self.context.launch("append_synapses", n=high - low, **buffers, items=high - low)
        self._account(old, planned, moves, end)
        tails = (old["length"] - old["sorted"]).astype(np.int64) + np.diff(first)
        self._longest_tail = max(self._longest_tail, int(tails.max()))
        self.count += len(batch)
        self._sort_late(ids)

    def _account(self, old: Rows, planned: Rows, moves: NDArray[np.bool_], end: int) -> None:
        """Rows are as planned now, those that moved in new blocks up to `end`."""
        self._end = end
        self._abandoned += int(self._blocks.units(old, old["capacity"].astype(np.int64))[moves].sum())
        squeezed = planned["length"] == planned["valid"]  # as are all that moved
        self._removed -= int((old["length"] - old["valid"].astype(np.int64))[squeezed].sum())
        self.rows_moved += int(np.count_nonzero(moves & (old["length"] > 0)))

    @staticmethod
    def pieces(first: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Ranges of runs that hold at most CHUNK items each, or are one longer run; a run is a row, or what is added
        to one, of at most MAX_ROW items, so that offsets inside a piece fit 32 bits."""
        pieces, low = [], 0
        while low < len(first) - 1:
            high = max(int(np.searchsorted(first, first[low] + RowStore.CHUNK, side="right")) - 1, low + 1)
            pieces.append((low, high))
            low = high
        return pieces

    def _plan(self, ids: U32, first: NDArray[np.int64], psp: Counts, delay: Counts) -> tuple[Rows, Rows, NDArray[np.bool_], int]:
        """Entries of the rows `ids` before and after the addition, which of them move, and where the last of those will end in
        the arena, which is made large enough."""
        added = np.diff(first)
        values = psp.view(np.uint32) if psp.dtype == np.float32 else psp
        lowest, highest = (extreme.reduceat(values, first[:-1]).astype(np.uint32) for extreme in (np.minimum, np.maximum))
        shortest = longest = np.broadcast_to(delay[0], len(ids))
        if not is_spread(delay):
            shortest, longest = (extreme.reduceat(delay, first[:-1]) for extreme in (np.minimum, np.maximum))
        while True:
            old = self._read(ids)
            if int((old["length"] + added).max()) > MAX_ROW:
                raise too_many(int(ids[np.argmax(old["length"] + added)]), int((old["length"] + added).max()))
            planned = old.copy()
            planned["valid"] = old["valid"] + added
            one_psp = (lowest == highest) & ((old["valid"] == 0) | (old["psp"] == lowest))
            planned["psp"] = np.where(one_psp, lowest, np.uint32(PSP_EACH))

            one_delay = (shortest == longest) & ((old["valid"] == 0) | (old["delay"] == shortest))
            planned["delay"] = np.where(one_delay, shortest, DELAY_EACH)

            same_slots = ((old["psp"] == PSP_EACH) == ~one_psp) & ((old["delay"] == DELAY_EACH) == ~one_delay)
            in_place = same_slots & (old["length"] + added <= old["capacity"])
            moves = ~(in_place | (same_slots & (planned["valid"] <= old["capacity"])))  # the rest is squeezed in place
            planned["length"] = np.where(in_place, old["length"] + added, planned["valid"])

            slots = planned["valid"].astype(np.int64)
            units = np.where(moves, self._blocks.units(planned, slots + np.maximum(slots // 32, 2)), 0)
            ends = self._end + np.cumsum(units)
            if not len(ends) or int(ends[-1]) * BLOCK_ALIGNMENT <= self.arena.nbytes:
                break
            self._make_room(int(ends[-1]) - self._end)
        planned["offset"] = np.where(moves, ends - units, old["offset"])
        planned["capacity"] = np.where(moves, units * BLOCK_ALIGNMENT // self._blocks.slot_bytes(planned), old["capacity"])
        return old, planned, moves, int(ends[-1])

    def _make_room(self, units: int) -> None:
        """At least `units` more at the end: by compaction where waste is a sixteenth of the arena and enough, else by growth."""
        size = self.arena.nbytes // BLOCK_ALIGNMENT
        waste = self._abandoned + self._removed * self._blocks.one // BLOCK_ALIGNMENT
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
        self._move_to(self.table, self.device.alloc(units * BLOCK_ALIGNMENT, np.uint8))
        self.growths += 1
        self.bytes_grown += self._end * BLOCK_ALIGNMENT

    def _move_to(self, table: Any, arena: Any) -> None:
        """Copy what is there to a larger table or arena (or the present ones), and give the old ones back."""
        old = []
        if table is not self.table:
            self.device.copy(table, 0, self.table, 0, self.neurons)
            old.append(self.table)
        if arena is not self.arena:
            self.device.copy(arena, 0, self.arena, 0, self._end * BLOCK_ALIGNMENT)
            old.append(self.arena)
        self.device.release(*old)
        self.table, self.arena = table, arena
        self._bind()

    def reserve(self, neurons: int, arena_bytes: int) -> None:
        """Grow the table to `neurons` rows and the arena to at least `arena_bytes`: both or, for want of memory, neither."""
        more_rows, more_bytes = neurons > self.neurons, self._whole(arena_bytes) > self.arena.nbytes
        wanted: list[tuple[int, DTypeLike]] = [(neurons, ROW_DTYPE)] * more_rows + [(self._whole(arena_bytes), np.uint8)] * more_bytes
        fresh = iter(self.device.alloc_all(wanted))
        self._move_to(next(fresh) if more_rows else self.table, next(fresh) if more_bytes else self.arena)
        self.neurons = max(neurons, self.neurons)
        if more_bytes:
            self.growths += 1
            self.bytes_grown += self._end * BLOCK_ALIGNMENT

    def set_columns(self, ids: U32, columns: int) -> None:
        """Give every slot of these rows (ascending) so many columns of u16: what they had stays as far as it goes, more are
        0. Rows that had others move; rows without synapses will have them as soon as they have any."""
        self._reform(ids, "columns", columns)

    def _reform(self, ids: U32, field: str, value: int) -> None:
        """Let these rows (ascending) have this field, on which the form of their slots depends. Those that had another move."""
        while len(ids):
            # An eighth of the arena at a time: what has moved is slid together before much has piled up.
            rows = self._read(ids[: self.CHUNK])
            ends = np.cumsum(self._blocks.units(rows, rows["valid"].astype(np.int64)))
            count = max(int(np.searchsorted(ends, max(self._end // 8, 2**12))), 1)
            self._reform_some(ids[:count], field, value)
            ids = ids[count:]

    def _reform_some(self, ids: U32, field: str, value: int) -> None:
        while True:
            old = self._read(ids)
            if not (old[field] != value).all():
                ids = ids[old[field] != value]
                continue
            planned = old.copy()
            planned[field] = value
            planned["length"] = planned["valid"]
            units = self._blocks.units(planned, planned["valid"].astype(np.int64))
            ends = self._end + np.cumsum(units)
            if not len(ends) or int(ends[-1]) * BLOCK_ALIGNMENT <= self.arena.nbytes:
                break
            self._make_room(int(ends[-1]) - self._end)
        if not len(ids):
            return
        self._blocks.fill(planned, units, self._end)
        with self.device.scratch() as scratch:
            rows = {"ids": scratch.uploaded(ids), "planned": scratch.uploaded(planned), "first": scratch.alloc(len(ids) + 1, np.uint32)}
            self.context.launch("append_synapses", n=len(ids), **rows, items=len(ids))
        self._account(old, planned, np.ones(len(ids), np.bool_), int(ends[-1]))

    # -- removing, reweighting, delaying -----------------------------------------------------------------------------
    def set_delays(self, source: U32, target: U32, delay: Counts) -> NDArray[np.bool_]:
        """Set the delay of the oldest synapse of each pair, one by one; says which there were."""
        self.delays.expect(delay)
        if not self.delays.several or not len(source):
            return self.edit(source, target, delay=delay)
        order = np.argsort(source, kind="stable")
        first = runs(source[order])
        ids, ordered = source[order][first[:-1]], delay[order]
        shortest, longest = (extreme.reduceat(ordered, first[:-1]) for extreme in (np.minimum, np.maximum))
        held = self._read(ids)["delay"]
        self._reform(ids[(held != DELAY_EACH) & ((shortest != held) | (longest != held))], "delay", DELAY_EACH)
        found = self.edit(source, target, delay=delay)
        self._sort_late(ids)
        return found

    def edit(self, source: U32, target: U32, weight: Counts | None = None, delay: Counts | None = None) -> NDArray[np.bool_]:
        """Reweight, delay (in rows that have room for it) or else remove the oldest synapse of each pair, one by one; says which
        there were."""
        if not len(source):
            return np.zeros(0, np.bool_)
        if len(source) > MAX_ROW:
            raise CapacityError(
                f"{len(source):,} pairs are too many for one call, which takes {MAX_ROW:,}; split the edit into several calls"
            )
        order = np.argsort(source, kind="stable")
        ordered = source[order]
        first = runs(ordered)
        self._sort_before_searching(ordered[first[:-1]], np.diff(first))
        there: NDArray[np.bool_] = np.empty(len(source), np.bool_)
        with self.device.scratch() as scratch:
            hosts = {"ids": ordered[first[:-1]], "first": first.astype(np.uint32), "target": target[order]}
            if weight is not None:
                hosts["weight"] = weight[order]
            if delay is not None:
                hosts["delay"] = delay[order]
            arrays = {name: scratch.uploaded(host) for name, host in hosts.items()}
            found, rows = scratch.alloc(len(source), np.uint8), len(first) - 1
            self.context.launch("edit_synapses", n=rows, **arrays, found=found, items=rows)
            there[order] = self.device.fetched(found, len(source)).view(np.bool_)
        if weight is None and delay is None:
            removed = int(np.count_nonzero(there))
            self._removed += removed
            self.count -= removed
        return there

    def _sort_before_searching(self, ids: U32, pairs: NDArray[np.int64]) -> None:
        """Looking for so many pairs in each of these rows compares each with all of the row's unsorted synapses. Once edits have
        made more of such comparisons than there are synapses, all rows are sorted, if there is memory for that."""
        if self._longest_tail * int(pairs.sum()) < MANY_COMPARISONS:
            return
        rows = self._read(ids)
        self._searched += int(((rows["length"] - rows["sorted"]).astype(np.int64) * pairs).sum())
        if self._searched > self._end * BLOCK_ALIGNMENT // self._blocks.one:
            with suppress(DeviceMemoryError):
                self.compact()

    def _sort_late(self, ids: U32) -> None:
        """Sort those of these rows that have several delays and need it, if there is memory for that."""
        if not self.delays.several:
            return
        rows = self._read(ids)
        unsorted = (rows["length"] - rows["sorted"]).astype(np.int64)
        needed = (rows["delay"] == DELAY_EACH) & (unsorted * SORTED_AT_LEAST > rows["length"])
        with suppress(DeviceMemoryError):
            self._pack(plan_sorting(ids[needed], rows[needed], self._blocks))
            self._removed -= int((rows["length"] - rows["valid"])[needed].sum(dtype=np.int64))

    # -- compaction ------------------------------------------------------------------------------------------------
    def compact(self) -> None:
        """Slide all rows together in the order in which they lie, without removed synapses and without room to grow, each
        sorted."""
        plan = plan_compaction(self.read_all(), self._blocks)
        self._pack(plan)
        self._end = plan.end
        self._abandoned = self._removed = self._longest_tail = self._searched = 0
        self.compactions += 1
        self.bytes_compacted += self._end * BLOCK_ALIGNMENT

    def _pack(self, plan: Compaction) -> None:
        """Rows go through a scratch of bounded size: packed there first, then placed."""
        if not len(plan.ids):
            return
        most = max((high - low for low, high, _ in plan.parts), default=0)
        with self.device.scratch() as scratch:
            # All that it takes is there before the first row moves.
            packing = scratch.alloc(plan.scratch_units * BLOCK_ALIGNMENT, np.uint8)
            dtypes: dict[str, DTypeLike] = {"ids": np.uint32, "planned": ROW_DTYPE, "packed": np.uint64, "packed_sorted": np.uint32}
            buffers = {name: scratch.alloc(most, dtype) for name, dtype in dtypes.items()}
            planned = buffers.pop("planned")
            for low, high, begin in plan.parts:
                self.device.upload(buffers["ids"], plan.ids[low:high])
                self.device.upload(planned, plan.planned[low:high])
                self.device.upload(buffers["packed"], (plan.begins[low:high] - begin).astype(np.uint64))
                for step in ("pack_rows", "sort_tails"):
                    self.context.launch(step, n=high - low, **buffers, scratch=packing, items=high - low)
                self.context.launch("place_rows", n=high - low, planned=planned, **buffers, scratch=packing, items=high - low)
