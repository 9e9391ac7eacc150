"""What keeps edits cheap: single additions gathered into batches, and a running proof that synaptic sums fit."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import Connectome, PlasticityRule, SynapseBatch, SynapseChain, SynapseSource
from gpu_npu.connectome.fields import SYNAPSE_FIELDS, largest_count, synapse_dtypes
from gpu_npu.connectome.plasticity import reaches
from gpu_npu.connectome.sums import PRODUCT_LIMIT, check_sums, largest_terms, least_weight_and_psp
from gpu_npu.objects import described


class PendingSynapses:
    """Synapses added one at a time, on their way to the backend as one batch: write combining, a microsecond each."""

    MOST = 2**20
    """Handed over at this many, so that a long loop needs little memory twice."""

    def __init__(self, *dtypes: Any) -> None:
        """dtypes: as of `synapse_dtypes`."""
        self._dtype = np.dtype(list(synapse_dtypes(*dtypes).items()))
        self._pack = struct.Struct("=" + "".join(self._dtype[name].char for name in SYNAPSE_FIELDS)).pack
        self.clear()

    def clear(self) -> None:
        """Forget what is gathered."""
        self._packed = bytearray()

    def __repr__(self) -> str:
        return described(self, f"{len(self):,} synapses")

    def __len__(self) -> int:
        return len(self._packed) // self._dtype.itemsize

    def append(self, *values: int) -> None:
        """Gather one synapse that was checked: a value for each of SYNAPSE_FIELDS."""
        self._packed += self._pack(*values)

    def batch(self) -> SynapseBatch:
        """What is gathered, oldest first."""
        rows = np.frombuffer(self._packed, self._dtype)
        return SynapseBatch(*(rows[name].copy() for name in SYNAPSE_FIELDS))


class SumBound:
    """An upper bound on the largest synaptic sum of any target, in units of one weight * psp, none of them divided by k,
    in whatever areas its sources are.

    While it stays below 2**31 no sum in fixed point (F = 32) can reach 2**63, whatever is removed, deleted or moved to
    another area, and an edit costs a look at its own numbers. Edits only raise it; `prove` brings it back to the truth.
    With F = 0 there is nothing to prove: a target would need more than 2**31 synapses.
    """

    def __init__(self) -> None:
        self._bound: int | None = None
        self._least_weight = self._least_psp = 0
        self._most_psp: Any = 0
        self._real = False

    def __repr__(self) -> str:
        return described(self, self._bound)

    def prove(self, connectome: Connectome, rules: Iterable[PlasticityRule], more: SynapseSource | None = None) -> None:
        """Compute exactly for a whole network that has these plasticity rules, and more synapses than it has.
        SumOverflowError or NetworkError where it cannot fit; then nothing changed. Memory: O(ids) and a batch."""
        reach = reaches(rules, largest_count(connectome.weight_dtype))
        areas = connectome.areas
        synapses = SynapseChain(connectome.synapses, *([] if more is None else [more]))
        self._bound = check_sums(synapses, connectome.neurons.cortical_area, areas, connectome.arithmetic, synapses.total, reach)
        # Which sources are mp-driven and which synapses plastic changes with areas, so any may be.
        self._least_weight, self._least_psp = least_weight_and_psp(areas, reach)
        self._real = connectome.arithmetic.real
        if self.is_kept:
            self._most_psp = max((batch.psp.max(initial=0) for batch in synapses), default=0)

    @property
    def is_kept(self) -> bool:
        """False where sums cannot but fit; with a non-uniform area they can."""
        return self._bound is not None

    def admits(self, growth: int) -> bool:
        """Whether an edit that raises no sum by more than `growth` is proven to fit; if so it is counted as made."""
        if self._bound is None:
            return True
        if self._bound + growth >= PRODUCT_LIMIT:
            return False
        self._bound += growth
        return True

    def growth_of_one(self, weight: int, psp: int) -> int:
        """Largest growth of a sum by one more synapse."""
        self._most_psp = max(self._most_psp, psp)
        product = max(weight, self._least_weight) * max(psp, self._least_psp)
        # float32 rounds weight, psp and product, by 2**-24 of each.
        return product + (product >> 22) + 1 if self._real else product

    def growth(self, target: NDArray[np.uint32], weight: NDArray[Any], psp: NDArray[Any] | None) -> int:
        """Largest growth of a sum by these synapses (arrays of one length), taken as of one sign. psp None: as large as any is."""
        if self._bound is None or not len(target):
            return 0
        if psp is None:
            psp = np.full(len(target), self._most_psp)
        self._most_psp = max(self._most_psp, psp.max())
        _, place = np.unique(target, return_inverse=True)
        # Sums stay exact far beyond the limit: below 2**53.
        return int(np.bincount(place, largest_terms(weight, psp, self._least_weight, self._least_psp, self._real)).max())
