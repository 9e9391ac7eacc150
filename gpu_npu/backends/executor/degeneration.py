"""Which areas degenerate, as kernels see it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gpu_npu.backends.executor.context import Context, Store
from gpu_npu.backends.layout import ARRAY
from gpu_npu.connectome import Area


class Degeneration(Store):
    """The areas whose psps fall as their neurons fire."""

    def __init__(self, context: Context, lengths: Mapping[str, int], areas: Mapping[int, Area]) -> None:
        super().__init__(context, [ARRAY["degenerating_area"], ARRAY["degeneration"]], lengths)
        self._steps: dict[int, float] = {}
        self.set(areas)

    def set(self, areas: Mapping[int, Area]) -> None:
        """These are the areas."""
        steps = {area: flags.degeneration for area, flags in areas.items() if flags.degeneration}
        if steps == self._steps:
            return
        fresh = {"degenerating_area": np.array(list(steps), np.uint32), "degeneration": np.array(list(steps.values()), np.float32)}
        with self.device.scratch() as scratch:
            arrays = {name: scratch.alloc(len(values), values.dtype) for name, values in fresh.items()}
            scratch.keep()
        self.device.release(*self.arrays.values())
        self.arrays, self._steps = arrays, steps
        for name, values in fresh.items():
            self.upload(name, values)
        self.bind()
        self.state["degenerating_areas"] = len(steps)

    def fall(self) -> None:
        """What the next burst would do: the psps of those that fired in the last one fall."""
        if self._steps:
            self.context.launch("degenerate_fired")
