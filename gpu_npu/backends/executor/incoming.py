"""The synapses in which a pair rule acts, by target: where a visit of a target finds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, sorted_unique, spread
from gpu_npu.backends.executor.context import Context
from gpu_npu.backends.executor.fired import bit_set
from gpu_npu.backends.executor.listing import list_rows
from gpu_npu.backends.executor.loading import load_rows
from gpu_npu.backends.executor.rows import RowStore
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import SynapseBatch, SynapseSource
from gpu_npu.connectome.fields import CountType
from gpu_npu.errors import DeviceMemoryError

MAX_TAIL = 512
"""So many incoming synapses of a neuron may be unsorted: a visit compares each with those before it."""
SLOT_DTYPE = np.uint16
"""Of guesses, kept where other rows have weights: in which slot of its source's row an incoming synapse is."""


class IncomingIndex:
    """Rows of their own, with sources where others have targets, and a State of their own."""

    def __init__(self, rows: RowStore, paired: NDArray[np.bool_], places: U32) -> None:
        """`paired`: between which areas a pair rule acts; `places`: the area of each id, as `paired` counts them."""
        self._context, self._paired = rows.context, paired
        state = rows.state.copy()
        state["weight_bytes"], state["psp_bytes"] = SLOT_DTYPE().itemsize, 1
        shape = NetworkShape(rows.neurons, 0, 1, SLOT_DTYPE, np.uint8)
        self._rows = RowStore(Context(rows.device, state), shape, 0, rows.edit_bytes)
        try:
            load_rows(self._rows, [_Reversed(rows, paired, places)])
        except BaseException:
            self.free()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._rows.nbytes

    def free(self) -> None:
        """Give the memory back; the index is of no more use."""
        self._rows.free()

    def bind(self) -> None:
        """Write where it lies into the State of the network."""
        state = self._context.state
        state["incoming"], state["incoming_arena"] = self._rows.state["rows"], self._rows.state["arena"]

    def reserve(self, neurons: int) -> None:
        """Grow to so many ids. It may have moved, and stays there even if others find no room."""
        self._rows.reserve(neurons, 0)
        self.bind()

    def add(self, batch: SynapseBatch, sources: U32, targets: U32) -> None:
        """Enter those synapses of a batch in which a pair rule acts; `sources`, `targets`: the places of their areas."""
        chosen = batch.take(self._paired[sources, targets])
        if not len(chosen):
            return
        try:
            self._rows.add(_backwards(chosen))
        finally:
            self.bind()  # it may have moved
        if self._rows.longest_tail(sorted_unique(chosen.target)) > MAX_TAIL:
            self.compact()

    def remove(self, source: U32, target: U32) -> None:
        """The oldest synapses of these pairs are gone. What is too much in the index leads nowhere."""
        with suppress(DeviceMemoryError):
            self._rows.edit(target, source, None)

    def compact(self) -> None:
        """Sort it."""
        self._rows.compact()
        self.bind()
        self.guess_slots()

    def guess_slots(self) -> None:
        """Note for each synapse where in its source's row it is."""
        self._context.launch("guess_slots")


class _Reversed(SynapseSource):
    """The synapses of these rows in which a pair rule acts, from target to source."""

    def __init__(self, rows: RowStore, paired: NDArray[np.bool_], places: U32) -> None:
        self._rows, self._paired, self._places = rows, paired, places
        by_source, by_target = (np.asarray(paired.any(axis=axis)) for axis in (1, 0))
        self._sources, self._targets = np.flatnonzero(by_source[places]).astype(np.uint32), bit_set(rows.neurons, by_target[places])
        self._total = sum(map(len, self))

    @property
    def total(self) -> int:
        return self._total

    @property
    def weight_dtype(self) -> CountType:
        return SLOT_DTYPE

    @property
    def psp_dtype(self) -> CountType:
        return np.uint8

    def __iter__(self) -> Iterator[SynapseBatch]:
        for batch in list_rows(self._rows, self._sources, self._targets):
            yield _backwards(batch.take(self._paired[self._places[batch.source], self._places[batch.target]]))


def _backwards(batch: SynapseBatch) -> SynapseBatch:
    unknown, none = np.zeros(len(batch), SLOT_DTYPE), np.zeros(len(batch), np.uint8)
    ends = {"source": batch.target, "target": batch.source}
    return replace(batch, **ends, weight=unknown, psp=none, inhibitory=none.view(np.bool_), delay=spread(1, len(batch), np.uint8))
