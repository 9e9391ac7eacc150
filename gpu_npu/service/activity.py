"""How much fires where: fired neurons by area, counted beside the bursts."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from gpu_npu.arrays import U32
from gpu_npu.npu import NPU
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import Unique, described

AT_ONCE = 2**16
"""Ids and bursts that are gathered before they are counted: what NumPy takes for a call is shared by many."""


class AreaActivity(Unique):
    """A sink that counts what fired in every area since it was made, without a loss.

    An area is where the neuron is when it is counted, up to AT_ONCE ids later; `refresh` says that neurons have moved.
    """

    def __init__(self, npu: NPU) -> None:
        self._npu = npu
        self._waiting: deque[U32] = deque()
        self._gathered = 0
        self._counting = threading.Lock()
        self._totals: dict[int, int] = {}
        self._areas, self._of = np.zeros(0, np.uint32), np.zeros(0, np.uint16)
        self.refresh()

    def __repr__(self) -> str:
        return described(self, f"{sum(self.fired().values()):,} fired in {len(self._areas):,} areas")

    def refresh(self) -> None:
        """Look up again which neuron is where; on the thread that may use the NPU."""
        with self._counting:
            self._count()
            self._look_up()

    def _look_up(self) -> None:
        self._areas, of = np.unique(self._npu.neuron_array.cortical_area, return_inverse=True)
        self._of = of.astype(np.uint16 if len(self._areas) <= 2**16 else np.uint32)

    def publish(self, result: BurstResult) -> None:
        """Gather; count when there is enough, unless another thread is counting."""
        fired = result.fired_neurons
        if not len(fired):
            return
        if fired[-1] >= len(self._of):  # the network has grown
            self.refresh()
        self._waiting.append(fired)
        self._gathered += 256 + len(fired)
        if self._gathered >= AT_ONCE and self._counting.acquire(blocking=False):
            self._gathered = 0
            try:
                self._count()
            finally:
                self._counting.release()

    def _count(self) -> None:
        fired = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if fired:
            counts = np.bincount(self._of[np.concatenate(fired)], minlength=len(self._areas))
            for i in np.flatnonzero(counts).tolist():
                area = int(self._areas[i])
                self._totals[area] = self._totals.get(area, 0) + int(counts[i])

    def fired(self) -> dict[int, int]:
        """Area id -> neurons that fired there; areas where none did are absent. From any thread."""
        with self._counting:
            self._count()
            return dict(self._totals)

    def statistics(self) -> dict[str, int]:
        """dropped, which is 0: it is a sink like others."""
        return {"dropped": 0}

    def close(self) -> None:
        """Count what waits; it can still be asked."""
        self.fired()
