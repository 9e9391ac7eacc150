"""The arrays that are kept while there is a plasticity rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32
from gpu_npu.backends.executor.context import Context
from gpu_npu.backends.executor.rows import gathered
from gpu_npu.backends.executor.rule_tables import Kind, RuleTables
from gpu_npu.backends.layout import ARRAY, PLASTIC, Array

NAMES = tuple(array.name for array in PLASTIC if not array.name.startswith("incoming"))
"""The index of incoming synapses has its own."""


class RuleStore:
    """What the kernels know of rules, and what rules remember of neurons. tables: None where there is no rule."""

    def __init__(self, context: Context, lengths: Mapping[str, int]) -> None:
        self._context, self._device, self._lengths = context, context.device, lengths
        self._arrays: dict[str, Any] = {}
        self.tables: RuleTables | None = None

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(int(array.nbytes) for array in self._arrays.values())

    @property
    def neurons(self) -> int:
        """Ids reserved."""
        return self._lengths["neuron"]

    def of_neurons(self, name: str) -> NDArray[Any]:
        """An array of a value an id, on the host."""
        return self._device.fetched(self._arrays[name], self.neurons)

    def places(self, neurons: U32) -> U32:
        """The areas of these neurons as the tables count them, 0: no rule names it."""
        places: U32 = gathered(self._context, neurons, self._arrays["spikes"])["area"]
        return places

    def trace(self, kind: Kind) -> U32:
        """The traces of this kind, of all spikes, of all ids; 0 where it is not kept."""
        if self.tables is None or kind not in self.tables.traces:
            return np.zeros(self.neurons, np.uint32)
        return self._device.fetched(self._arrays["traces"], self.neurons, self._trace_at(self.tables, kind))

    def set_trace(self, kind: Kind, values: U32) -> None:
        """Set them, where it is kept."""
        if self.tables is not None and kind in self.tables.traces:
            self.upload("traces", values, self._trace_at(self.tables, kind))

    def upload(self, name: str, values: NDArray[Any], at: int = 0) -> None:
        """Set items of an array."""
        self._device.upload(self._arrays[name], values, at)

    def zero(self, *names: str) -> None:
        """Set arrays to 0."""
        for name in names:
            self._device.zero(self._arrays[name])

    def _trace_at(self, tables: RuleTables, kind: Kind) -> int:
        return tables.traces.index(kind) * self.neurons

    # -- other rules, more neurons ---------------------------------------------------------------------------------
    def needed(self, tables: RuleTables) -> list[tuple[Array, int]]:
        """The arrays that are made anew for these tables, and how many items they have."""
        names = NAMES if self.tables is None else ("more_seen", "traces", *tables.arrays)
        if self.tables is not None and tables.feagi != self.tables.feagi:
            names += ("history", "older")
        return [(ARRAY[name], ARRAY[name].size({**self._lengths, **tables.lengths})) for name in names]

    def take(self, tables: RuleTables, fresh: Mapping[str, Any]) -> None:
        """Go over to these tables, with new arrays. Traces that both know stay."""
        for name, host in tables.arrays.items():
            self._device.upload(fresh[name], host)
        if self.tables is not None:
            for kind in set(tables.traces) & set(self.tables.traces):
                old = self._arrays["traces"], self._trace_at(self.tables, kind)
                self._device.copy(fresh["traces"], self._trace_at(tables, kind), *old, self.neurons)
        self._replace(fresh)
        self.tables = tables

    def forget(self) -> None:
        """No rule is left, and nothing of them stays."""
        self._device.release(*self._arrays.values())
        self._arrays, self.tables = {}, None

    def larger(self, lengths: Mapping[str, int]) -> list[tuple[Array, int]]:
        """As `Store.larger`."""
        if self.tables is None:
            return []
        sizes = {name: ARRAY[name].size({**lengths, **self.tables.lengths}) for name in NAMES}
        return [(ARRAY[name], size) for name, size in sizes.items() if size > self._arrays[name].size]

    def move_to(self, lengths: Mapping[str, int], fresh: Mapping[str, Any]) -> None:
        """As `Store.move_to`."""
        of_rules = {} if self.tables is None else self.tables.lengths
        for name, new in fresh.items():
            for to, at, count in ARRAY[name].moves({**self._lengths, **of_rules}, {**lengths, **of_rules}):
                self._device.copy(new, to, self._arrays[name], at, count)
        self._replace(fresh)
        self._lengths = lengths

    def _replace(self, fresh: Mapping[str, Any]) -> None:
        self._device.release(*(self._arrays[name] for name in fresh if name in self._arrays))
        self._arrays |= fresh

    def bind(self) -> None:
        """Write where everything lies, and how much there is, into the State."""
        state, tables = self._context.state, self.tables
        for name in NAMES:
            array = self._arrays.get(name)
            state[name] = self._device.address(array) if array is not None and array.nbytes else 0
        state["areas"] = len(tables.areas) + 1 if tables else 0
        state["window_kinds"], state["longest_window"] = (tables.windows, tables.longest) if tables else (0, 0)
        state["trace_values"] = len(tables.traces) if tables else 0
