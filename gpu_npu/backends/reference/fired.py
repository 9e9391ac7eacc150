"""Who fired: the fire queues, the ledger, the candidates; and which burst was the last."""

from __future__ import annotations

import numpy as np

from gpu_npu.arrays import F32, U32
from gpu_npu.backends.flight import Flight

Queue = tuple[U32, F32]
"""Ids, ascending, and the potential at which each fired."""


def no_queue() -> Queue:
    """Nobody fired."""
    return np.zeros(0, np.uint32), np.zeros(0, np.float32)


class FireStore:
    """What the last bursts left: burst (the number of the last one), queue, previous queue, candidates, ledger."""

    def __init__(self, ledger_window: int) -> None:
        self._window = ledger_window
        self.reset()

    def reset(self) -> None:
        """As before the first burst."""
        self.burst = 0
        self.queue, self.previous, self.candidates = no_queue(), no_queue(), no_queue()
        self.ledger: dict[int, U32] = {}

    def note(self, burst: int, queue: Queue, candidates: Queue) -> None:
        """A burst is over."""
        self.previous, self.queue, self.candidates = self.queue, queue, candidates
        self.ledger[burst] = queue[0]
        self.ledger.pop(burst - self._window, None)
        self.burst = burst

    def resume(self, flight: Flight) -> None:
        """As after the last burst of this flight."""
        self.burst = flight.burst
        self.queue, self.previous, self.candidates = flight.fired, flight.previous, flight.candidates
        self.ledger.update(enumerate(flight.ledger, flight.burst - len(flight.ledger) + 1))
