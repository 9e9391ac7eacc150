"""The memory that a network takes on a device, before it is loaded there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpu_npu.backends.layout import (
    ARRAYS,
    BLOCK_ALIGNMENT,
    ROW_DTYPE,
    SCRATCH_BYTES,
    STAGING_ITEMS,
    TAIL_KEY_BYTES,
    UPLOAD_SYNAPSES,
    axis_lengths,
)
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Connectome, SynapseChain, SynapseSource

GROUPS = ("rows", "neurons", "tasks", "ledger", "control", "staging")
"""The pieces of which `Backend.memory` tells, plasticity aside."""


def arena_estimate(shape: NetworkShape) -> int:
    """Bytes of an arena into which all synapses of this shape, spread over its rows, fit for sure when loaded at once."""
    return shape.synapse_capacity * shape.synapse_bytes + min(shape.synapse_capacity, shape.neuron_capacity) * (BLOCK_ALIGNMENT - 1)


def estimate_bytes(shape: NetworkShape) -> int:
    """Device bytes of a network of this shape, before it is loaded."""
    lengths = axis_lengths(shape, apart=True, second=True, arena_bytes=arena_estimate(shape))
    return sum(array.size(lengths) * array.dtype.itemsize for array in ARRAYS)


def cell_bits(shape: NetworkShape, in_degree: int) -> int:
    """Low bits of a 32-bit sum that count up to `in_degree` arrivals; 0 where no term of either sign fits beside them."""
    bits = max(in_degree.bit_length(), 1)
    return bits if 8 * shape.term_bytes + bits <= 31 else 0


def count_bits(shape: NetworkShape) -> int:
    """Low bits of an accumulator that can count arrivals. With c of them and terms of t bits: in-degree < 2^c and
    |sum| < 2^(t + c), so t + 2 c <= 62 leaves room for both."""
    return max((62 - 8 * shape.term_bytes) // 2, 0)


def _units(nbytes: NDArray[np.int64]) -> NDArray[np.int64]:
    units: NDArray[np.int64] = -(-nbytes // BLOCK_ALIGNMENT)
    return units


def _rows_of(synapses: SynapseSource, neurons: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """(synapses of each row, units of its block, largest in-degree) once exactly these synapses are loaded."""
    slots, arriving = np.zeros(neurons, np.int64), np.zeros(neurons, np.int64)
    one_psp, each = np.zeros(neurons, synapses.psp_dtype), np.zeros(neurons, np.bool_)
    one_delay, late = np.zeros(neurons, synapses.delay_dtype), np.zeros(neurons, np.bool_)
    for batch in synapses:
        fresh = slots[batch.source] == 0
        one_psp[batch.source[fresh]] = batch.psp[fresh]
        each[batch.source[batch.psp != one_psp[batch.source]]] = True
        one_delay[batch.source[fresh]] = batch.delay[fresh]
        late[batch.source[batch.delay != one_delay[batch.source]]] = True
        slots += np.bincount(batch.source, minlength=neurons)
        arriving += np.bincount(batch.target, minlength=neurons)
    bytes_each = NetworkShape(neurons, 0, 0, synapses.weight_dtype, synapses.psp_dtype).synapse_bytes
    slot_bytes = np.where(each, bytes_each, bytes_each - one_psp.itemsize) + np.where(late, one_delay.itemsize, 0)
    return slots, _units(slots * slot_bytes), int(arriving.max(initial=0))


def load_bytes(
    connectome: Connectome, shape: NetworkShape, more: SynapseSource | None = None, *, owned: bool = False
) -> tuple[dict[str, int], int]:
    """Device bytes by piece once this network is loaded, as `Backend.memory` then says, and what the load takes beside them.

    `owned`: for a device whose strategy of propagation that is (the CPU).
    Reads every synapse once: what `estimate_bytes` bounds from the capacities alone is exact here.
    """
    synapses = connectome.synapses if more is None else SynapseChain(connectome.synapses, more)
    slots, units, in_degree = _rows_of(synapses, connectome.neuron_capacity)
    arena, count = int(units.sum()) * BLOCK_ALIGNMENT, synapses.total
    if shape.synapse_capacity > count:
        arena = max(arena, -(-arena_estimate(shape) // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT)
    apart = bool(connectome.arithmetic.bits) or in_degree >= 1 << count_bits(shape)
    most = replace(shape, synapse_capacity=max(shape.synapse_capacity, count))
    lengths = axis_lengths(most, apart=apart, second=owned, arena_bytes=arena)
    pieces = dict.fromkeys(GROUPS, 0) | {"staging": 3 * 4 * STAGING_ITEMS}
    for array in ARRAYS:
        pieces[array.group] += array.size(lengths) * array.dtype.itemsize
    # While synapses are counted: a chunk of them and the in-degrees. While rows are sorted: their scratch, and what says where.
    counting = min(count, UPLOAD_SYNAPSES) * shape.synapse_bytes + 4 * (shape.neuron_capacity + 1)
    packed = (units + _units(slots * TAIL_KEY_BYTES)) * BLOCK_ALIGNMENT
    scratch = min(int(packed.sum()), max(SCRATCH_BYTES, int(packed.max(initial=0))))
    sorting = scratch + int(np.count_nonzero(slots)) * (4 + ROW_DTYPE.itemsize + 8 + 4)
    return pieces, max(counting, sorting) if count else 0
