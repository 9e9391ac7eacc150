"""`npu.neuron_array`, the neurons as arrays: one a field, read from the backend when it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import NEURON_FIELDS
from gpu_npu.objects import Unique, described

_FIELDS = {name: name for name in (*NEURON_FIELDS, "valid", "created")} | {f.seed_name: f.name for f in NEURON_FIELDS.values()}


class NeuronArrayView(Unique):
    """The neurons of an NPU under the field names and under the names of the first API (thresholds, leak_rates, cortical_areas, ...).

    Every look fetches the whole field as it then is: a host copy of shape (capacity,), coordinates (capacity, 3), that
    is the reader's own. Writing to it changes nothing; `NPU.set_parameter` does.
    """

    instead = "npu.to_connectome().neurons is a copy"

    def __init__(self, capacity: int, read: Callable[[str], NDArray[Any]]) -> None:
        self.capacity = capacity
        self._read = read

    def __repr__(self) -> str:
        return described(self, f"the neurons of an NPU (capacity {self.capacity:,}), each field fetched when it is looked at")

    @property
    def count(self) -> int:
        """Ids created so far, deleted ones included."""
        return int(np.count_nonzero(self._read("created")))

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in _FIELDS:
            raise AttributeError(f"neurons have no field {name!r}; these are: {', '.join(_FIELDS)}")
        return self._read(_FIELDS[name])

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_FIELDS})
