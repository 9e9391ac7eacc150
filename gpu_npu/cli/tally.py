"""What the synapses of a network are like, counted batch by batch, so that a list of any length needs no more memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu import Connectome, SynapseBatch
from gpu_npu.arrays import I64, Counts
from gpu_npu.connectome import SynapseSource
from gpu_npu.connectome.fields import CountType
from gpu_npu.objects import described

Spread = dict[str, float | None]


class Tally:
    """Of all synapses that were added."""

    def __init__(self, network: Connectome) -> None:
        n = network.neuron_capacity
        self._area, self._weights, self._psps = network.neurons.cortical_area, Values(network.weight_dtype), Values(network.psp_dtype)
        self._delays = Values(network.delay_dtype)
        self.out_degree, self.in_degree = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._psp: NDArray[np.float64] = np.full(n, np.nan)
        self._several = np.zeros(n, np.bool_)
        self.count, self.self_loops, self.inhibitory = 0, 0, 0
        self._mappings: Counter[int] = Counter()

    def __repr__(self) -> str:
        return described(self, f"{self.count:,} synapses")

    def add(self, synapses: Iterable[SynapseSource]) -> None:
        """Count these."""
        for source in synapses:
            for batch in source:
                self._add(batch)

    def _add(self, batch: SynapseBatch) -> None:
        n, source, target = len(self._psp), batch.source, batch.target
        self.count += len(batch)
        self.self_loops += int(np.count_nonzero(source == target))
        self.inhibitory += int(np.count_nonzero(batch.inhibitory))
        self.out_degree += np.bincount(source, minlength=n)
        self.in_degree += np.bincount(target, minlength=n)
        self._weights.add(batch.weight)
        self._psps.add(batch.psp)
        self._delays.add(batch.delay)
        new = np.isnan(self._psp[source])
        self._psp[source[new]] = batch.psp[new]
        self._several[source[batch.psp != self._psp[source]]] = True
        pairs, counts = np.unique(self._area[source].astype(np.uint64) << np.uint64(32) | self._area[target], return_counts=True)
        self._mappings.update(dict(zip(pairs.tolist(), counts.tolist(), strict=True)))

    def facts(self, neurons: I64) -> dict[str, Any]:
        """By name, as JSON has them. neurons: those that degrees are told of."""
        return {
            "out_degree": spread(self.out_degree[neurons]),
            "in_degree": spread(self.in_degree[neurons]),
            "self_loops": self.self_loops,
            "weight": {"dtype": self._weights.dtype.name, **self._weights.spread()},
            "psp": {"dtype": self._psps.dtype.name, **self._psps.spread(), "sources_with_several": int(self._several.sum())},
            "delay": {"dtype": self._delays.dtype.name, **self._delays.spread()},
            "inhibitory_share": self.inhibitory / self.count if self.count else 0.0,
            "mappings": self._most_first(),
        }

    def _most_first(self) -> list[dict[str, int]]:
        """Synapses from area to area, the most first."""
        pairs = sorted(self._mappings.items(), key=lambda item: (-item[1], item[0]))
        return [{"source": pair >> 32, "target": pair & 0xFFFFFFFF, "synapses": count} for pair, count in pairs]


class Values:
    """How often each value of 8 or 16 bits is there; of real numbers, all of them."""

    def __init__(self, dtype: CountType) -> None:
        self.dtype = np.dtype(dtype)
        self._counts = None if self.dtype.kind == "f" else np.zeros(2 ** (8 * self.dtype.itemsize), np.int64)
        self._parts: list[Counts] = []

    def __repr__(self) -> str:
        return described(self, str(self.dtype))

    def add(self, values: Counts) -> None:
        """More of them."""
        if self._counts is None:
            self._parts.append(values.copy())
        else:
            self._counts += np.bincount(values, minlength=len(self._counts))

    def spread(self) -> Spread:
        """As `spread` of all values."""
        if self._counts is None:
            return spread(np.concatenate([np.zeros(0, self.dtype), *self._parts]))
        there, until = np.flatnonzero(self._counts), np.cumsum(self._counts)
        total = int(until[-1])
        if not total:
            return spread(there)
        middle = np.searchsorted(until, [(total - 1) // 2, total // 2], side="right")
        mean = float(there @ self._counts[there]) / total
        return {"min": int(there[0]), "median": float(middle.mean()), "mean": mean, "max": int(there[-1])}


def spread(values: NDArray[Any]) -> Spread:
    """The least, the median, the mean and the greatest; None of each where there are none."""
    if not len(values):
        return dict.fromkeys(("min", "median", "mean", "max"))
    numbers = (values.min(), np.median(values), values.mean(dtype=np.float64), values.max())
    return dict(zip(("min", "median", "mean", "max"), (number.item() for number in numbers), strict=True))
