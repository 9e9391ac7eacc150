"""Rows made all at once, from synapses in any order or generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpu_npu.arrays import spread
from gpu_npu.backends.executor.rows import RowStore, check_degrees, packed_targets
from gpu_npu.connectome import SynapseChain, SynapseSource
from gpu_npu.errors import NetworkError

COLUMNS = ("source", "target", "weight", "psp", "delay")
"""Of a chunk of synapses on the device; the last only where there are several delays."""


def load_rows(rows: RowStore, sources: Sequence[SynapseSource]) -> int:
    """Make all rows of a store that has none: the synapses of these sources, oldest first, in rows without room to grow, sorted by
    target. Returns the largest in-degree.

    Each source is read twice, batch by batch: to count, then to place. On the device that takes, beside the rows, a chunk
    of RowStore.CHUNK synapses, 4 bytes a neuron while they are counted, then the scratch of a compaction; on the host a
    batch and some 100 bytes a neuron. NetworkError: a source was not the same the second time. CapacityError: more
    than MAX_ROW synapses leave a neuron, or more than MAX_IN_DEGREE end in one.
    """
    context, device = rows.context, rows.device
    total = sum(source.total for source in sources)
    if total == 0:
        return 0
    shortest, longest = SynapseChain(*sources).delay_range
    delay_dtype = rows.delays.known.dtype
    dtypes: list[DTypeLike] = [np.uint32, np.uint32, *rows.dtypes, *([delay_dtype] if shortest != longest else [])]
    with device.scratch() as scratch:
        chunk = dict(zip(COLUMNS, scratch.alloc_all([(min(total, rows.CHUNK), dtype) for dtype in dtypes]), strict=False))
        others = scratch.alloc(1, np.uint32)
        with device.scratch() as shorter:
            arrivals = shorter.alloc(rows.neurons, np.uint32)
            seen = shorter.alloc(longest // 32 + 1, np.uint32)
            counted_columns = {name: array for name, array in chunk.items() if name != "weight"}
            for n in _chunks(rows, sources, chunk):
                context.launch("count_synapses", n=n, **counted_columns, in_degree=arrivals, delays_seen=seen, items=n)
            in_degree = device.fetched(arrivals, rows.neurons)
            bits = np.unpackbits(device.fetched(seen, longest // 32 + 1).view(np.uint8), bitorder="little")
        rows.delays.expect(np.flatnonzero(bits).astype(delay_dtype) if shortest != longest else spread(longest, 1, delay_dtype))
        table = rows.read_all()
        counted = table["capacity"].astype(np.int64)
        check_degrees(counted, in_degree, total)
        rows.place(table)
        filling = {name: array for name, array in chunk.items() if name != "source"}
        for n in _chunks(rows, sources, chunk):
            context.launch("claim_slots", n=n, source=chunk["source"], items=n)
            context.launch("fill_rows", **filling, others=others, items=rows.neurons)
        changed = bool(device.fetched(others, 1)[0]) or not np.array_equal(rows.read_all()["length"], counted)
    if changed:
        raise NetworkError("a source of synapses gave other synapses when it was read again; it must give the same ones each time")
    rows.count = total
    rows.compact()
    return int(in_degree.max())


def _chunks(rows: RowStore, sources: Sequence[SynapseSource], chunk: Mapping[str, Any]) -> Iterator[int]:
    """Fill the device arrays of a chunk with the synapses in turn; yields how many are there."""
    size = chunk["source"].size
    for source in sources:
        if (procedure := source.procedure()) is not None:  # no host need see them
            for first in range(0, source.total, size):
                n = min(size, source.total - first)
                rows.context.launch(procedure.kernel, first=first, n=n, **procedure.arguments, **chunk, items=n)
                yield n
            continue
        for batch in source:
            for first in range(0, len(batch), size):
                part = slice(first, first + size)
                target = packed_targets(batch.target[part], batch.inhibitory[part])
                hosts = {name: getattr(batch, name)[part] for name in chunk} | {"target": target}
                kept = [np.ascontiguousarray(hosts[name]) for name in chunk]
                for name, host in zip(chunk, kept, strict=True):
                    rows.device.upload(chunk[name], host)
                yield len(target)
                rows.device.wait()  # the host arrays are done with
