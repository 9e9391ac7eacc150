"""The activity of a run: one line of blocks, however long it becomes, and the neurons that fired most."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu_npu.arrays import I64
from gpu_npu.connectome import Annotations
from gpu_npu.objects import described, one_line

COLUMNS = 60
"""Of the picture."""
_KEPT = 16 * COLUMNS
"""Counts that are kept: two neighbours become one where there would be more."""
MOST_ACTIVE = 10
"""Neurons that are named."""
_BARS = " ▁▂▃▄▅▆▇█"


class Activity:
    """How many neurons fired in each stretch of `width` bursts, from the first burst on; what was counted before can be given."""

    def __init__(self, counts: list[int] | None = None, width: int = 1, bursts: int = 0) -> None:
        self.counts, self.width, self.bursts = list(counts or ()), width, bursts

    def __repr__(self) -> str:
        return described(self, f"{self.bursts:,} bursts in {len(self.counts):,} stretches")

    def add(self, fired: int) -> None:
        """Count the neurons that fired in one burst more."""
        if self.bursts == _KEPT * self.width:
            self.counts = [a + b for a, b in zip(self.counts[::2], self.counts[1::2], strict=True)]
            self.width *= 2
        if self.bursts % self.width == 0:
            self.counts.append(0)
        self.counts[-1] += fired
        self.bursts += 1

    def picture(self) -> str:
        """The mean of each of at most COLUMNS equal parts of what was counted, the highest a whole block; blank where none fired."""
        parts = min(len(self.counts), COLUMNS)
        if not parts:
            return ""
        first = np.arange(parts) * len(self.counts) // parts
        ends = np.minimum(np.append(first[1:], len(self.counts)) * self.width, self.bursts)
        means = np.add.reduceat(np.array(self.counts, np.int64), first) / (ends - first * self.width)
        heights = np.ceil(means * (len(_BARS) - 1) / max(float(means.max()), 1e-9)).astype(int)
        return "".join(_BARS[min(height, len(_BARS) - 1)] for height in heights)


class Active(NamedTuple):
    """A neuron that fired, by its label or, without one, its id."""

    neuron: int
    name: str
    fired: int

    def __repr__(self) -> str:
        return one_line(self)


def most_active(fired: I64, annotations: Annotations) -> tuple[Active, ...]:
    """The neurons that fired most, the most first, at most MOST_ACTIVE. fired: (n,) how often each did."""
    there = np.flatnonzero(fired)
    most = there[np.argsort(-fired[there], kind="stable")[:MOST_ACTIVE]]
    return tuple(Active(neuron, annotations.name(neuron), int(fired[neuron])) for neuron in most.tolist())
