"""Which delays synapses have, as kernels see it."""

from __future__ import annotations

import numpy as np

from gpu_npu.arrays import Counts, is_spread, sorted_union, sorted_unique
from gpu_npu.backends.executor.context import Context, Store
from gpu_npu.backends.layout import ARRAY
from gpu_npu.backends.shape import NetworkShape


class Delays(Store):
    """The delays that some synapse has, or had since the network was loaded: in each burst the queue of each is delivered.

    known : these, ascending, of the network's dtype.
    """

    def __init__(self, context: Context, shape: NetworkShape) -> None:
        super().__init__(context, [ARRAY["delays"]], {"late": 0})
        self.known: Counts = np.zeros(0, shape.delay_dtype)
        self.state["delay_bytes"] = self.known.itemsize
        self.keep(shape.longest_delay)

    def keep(self, longest: int) -> None:
        """Spikes are kept for so many bursts."""
        self.state["longest_delay"] = longest
        self.state["delay"] = int(self.known[0]) if len(self.known) else longest

    @property
    def several(self) -> bool:
        """Whether there is more than one; else rows keep none."""
        return len(self.known) > 1

    def expect(self, delays: Counts) -> None:
        """There are synapses with these, or will be. DeviceMemoryError: then nothing changed."""
        fresh = sorted_union(self.known, delays[:1] if is_spread(delays) else sorted_unique(delays)).astype(self.known.dtype)
        if len(fresh) == len(self.known):
            return
        if len(fresh) > 1:
            array = self.device.alloc(len(fresh), np.uint16)
            self.device.release(self.arrays["delays"])
            self.arrays["delays"] = array
            self.upload("delays", fresh.astype(np.uint16))
            self.bind()
            self.device.wait()
            self.state["delay_count"] = len(fresh)
        self.known = fresh
        self.state["delay"] = int(fresh[0])
