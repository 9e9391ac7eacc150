"""Where what arrives at a neuron is summed, and what makes sure that sums and counts fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from gpu_npu.backends.executor.context import Context, Store
from gpu_npu.backends.executor.rows import MAX_IN_DEGREE
from gpu_npu.backends.layout import ARRAY
from gpu_npu.backends.memory import cell_bits, count_bits
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.checks import settle
from gpu_npu.connectome import Area, Settings, SynapseBatch
from gpu_npu.connectome.sums import Arithmetic
from gpu_npu.errors import CapacityError


class Accumulators(Store):
    """The accumulators of all neurons. Arrivals are counted in their low bits where sum and count provably fit 63 bits together,
    else apart."""

    def __init__(self, context: Context, lengths: Mapping[str, int], shape: NetworkShape, *, packed: bool) -> None:
        super().__init__(context, [ARRAY[name] for name in ("accumulator", "second_accumulator", "arrivals")], lengths)
        self._shape, self._packed = shape, packed
        self._in_degree = 0  # no target has more valid synapses than this: a bound that only additions raise
        items = self.device.cache_bytes * 3 // 4 // ARRAY["accumulator"].dtype.itemsize
        self.state["resident_neurons"] = max(items, 1)
        self.state["weight_bytes"], self.state["psp_bytes"] = (np.dtype(kind).itemsize for kind in (shape.weight_dtype, shape.psp_dtype))

    @property
    def apart(self) -> bool:
        """Whether arrivals are counted in an array of their own."""
        return bool(self.arrays["arrivals"].nbytes)

    def set_unit(self, settings: Settings, areas: Mapping[int, Area]) -> None:
        """How terms are computed, and what a unit of a sum is worth; before the flags of areas change, as it may need memory."""
        arithmetic = Arithmetic.of(self._shape.weight_dtype, self._shape.psp_dtype, areas, settings.rules)
        bits, contribution_scale = arithmetic.bits, settings.contribution_scale
        self._count_arrivals(bits, self._in_degree)
        self.state["fraction_bits"], self.state["real_terms"] = bits, arithmetic.real
        self.state["round_driven"] = settings.rules.mp_driven_rounding
        self.state["unit"] = settle(np.array([np.float32(float(contribution_scale) * 2.0**-bits)], np.float32))

    def make_room(self, in_degree: int) -> None:
        """Up to so many synapses may come to end in a neuron; before they do, as it may need memory."""
        self._count_arrivals(int(self.state["fraction_bits"][0]), in_degree)

    def expect(self, in_degree: int) -> None:
        """Up to so many synapses end in a neuron now."""
        self.make_room(in_degree)
        self._in_degree = in_degree

    def in_degree_with(self, batch: SynapseBatch, present: Iterable[SynapseBatch]) -> int:
        """A bound on in-degrees once this batch is added to what is present, which is looked at only where counts might not fit
        any more. CapacityError where they do not."""
        few = len(batch) * 8 < self.neurons
        arrivals = np.unique(batch.target, return_counts=True)[1] if few else np.bincount(batch.target)
        bound = self._in_degree + int(arrivals.max())
        if self._in_degree < 1 << count_bits(self._shape) <= bound or bound > MAX_IN_DEGREE:
            degrees = np.bincount(batch.target, minlength=self.neurons)
            for part in present:
                degrees += np.bincount(part.target, minlength=self.neurons)
            bound = int(degrees.max())
        if bound > MAX_IN_DEGREE:
            raise CapacityError(f"{bound:,} synapses would end in one neuron, at most {MAX_IN_DEGREE:,} can; let several share them")
        return bound

    def _count_arrivals(self, fraction_bits: int, in_degree: int) -> None:
        bits = count_bits(self._shape)
        apart = not self._packed or fraction_bits > 0 or in_degree >= 1 << bits
        if apart != self.apart and self.neurons:
            lengths = {**self._lengths, "apart": int(apart)}
            fresh = self.device.alloc(ARRAY["arrivals"].size(lengths), np.uint32)
            self.device.release(self.arrays["arrivals"])
            self.arrays["arrivals"], self._lengths = fresh, lengths
            self.bind()
        self.state["arrival_bits"] = 0 if apart else bits
        self.state["cell_bits"] = 0 if apart else cell_bits(self._shape, in_degree)
