"""How large the blocks of rows are, and how rows are packed when all of them are slid together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32
from gpu_npu.backends.layout import BLOCK_ALIGNMENT, DELAY_EACH, PSP_EACH, SCRATCH_BYTES, TAIL_KEY_BYTES
from gpu_npu.backends.shape import NetworkShape

Rows = NDArray[np.void]
"""Entries of the row table, dtype ROW_DTYPE."""


class Blocks:
    """Bytes of slots and blocks, for synapses of this shape."""

    def __init__(self, shape: NetworkShape) -> None:
        self.each = 4 + shape.term_bytes
        """Bytes of a slot where synapses have a psp each; else `one`."""
        self.one = self.each - np.dtype(shape.psp_dtype).itemsize
        self.delay = np.dtype(shape.delay_dtype).itemsize
        """Bytes more where they have a delay each."""

    def slot_bytes(self, rows: Rows) -> NDArray[np.int64]:
        """Bytes of a slot of each row, columns included."""
        columns = rows["columns"].astype(np.int64)
        slots: NDArray[np.int64] = np.where(rows["psp"] == PSP_EACH, self.each, self.one) + 2 * columns
        slots += np.where(rows["delay"] == DELAY_EACH, self.delay, 0)
        return slots

    def units(self, rows: Rows, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Units of BLOCK_ALIGNMENT bytes for so many slots of each row."""
        units: NDArray[np.int64] = -(-slots * self.slot_bytes(rows) // BLOCK_ALIGNMENT)
        return units

    def fill(self, rows: Rows, units: NDArray[np.int64], end: int = 0) -> NDArray[np.int64]:
        """Give the rows blocks of so many units, one after the other from unit `end` on. Returns where each of them ends."""
        ends: NDArray[np.int64] = end + np.cumsum(units)
        rows["offset"] = ends - units
        rows["capacity"] = units * BLOCK_ALIGNMENT // self.slot_bytes(rows)
        return ends


@dataclass(frozen=True)
class Compaction:
    """ids : the rows that have a block, as they lie. planned : their entries afterwards. begins : first unit of each when it is
    packed, counted through. parts : (low, high, first unit) of the rows that go through the scratch together. scratch_units : that
    it needs. end : first unit behind all rows, where they are slid together."""

    ids: U32
    planned: Rows
    begins: NDArray[np.int64]
    parts: list[tuple[int, int, int]]
    scratch_units: int
    end: int


def plan_compaction(table: Rows, blocks: Blocks) -> Compaction:
    """Rows slid together in the order in which they lie, without removed synapses and without room to grow, each sorted by target."""
    ids = np.flatnonzero(table["capacity"]).astype(np.uint32)
    ids = ids[np.argsort(table["offset"][ids])]
    old = table[ids]
    planned = old.copy()
    planned["length"] = planned["sorted"] = old["valid"]
    ends = blocks.fill(planned, blocks.units(old, old["valid"].astype(np.int64)))
    return _in_parts(ids, old, planned, blocks, int(ends[-1]) if len(ends) else 0)


def plan_sorting(ids: U32, rows: Rows, blocks: Blocks) -> Compaction:
    """Rows without removed synapses and each sorted, where they lie."""
    planned = rows.copy()
    planned["length"] = planned["sorted"] = rows["valid"]
    return _in_parts(ids, rows, planned, blocks, 0)


def _in_parts(ids: U32, old: Rows, planned: Rows, blocks: Blocks, end: int) -> Compaction:
    # In scratch a row is followed by a key for each slot of its unsorted tail; one with several delays is sorted anew.
    units = blocks.units(old, old["valid"].astype(np.int64))
    tail = np.minimum(old["valid"], old["length"] - np.where(old["delay"] == DELAY_EACH, 0, old["sorted"])).astype(np.int64)
    packed_units = units - (-tail * TAIL_KEY_BYTES // BLOCK_ALIGNMENT)
    packed_ends = np.cumsum(packed_units)
    begins = packed_ends - packed_units
    limit = max(SCRATCH_BYTES // BLOCK_ALIGNMENT, int(packed_units.max(initial=0)))
    parts, low = [], 0
    while low < len(ids):
        begin = int(begins[low])
        high = max(int(np.searchsorted(packed_ends, begin + limit, side="right")), low + 1)
        parts.append((low, high, begin))
        low = high
    needed = max(min(limit, int(packed_units.sum())), 1)
    return Compaction(ids, planned, begins, parts, needed, end)
