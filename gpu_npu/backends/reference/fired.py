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
    """What the last bursts left: burst (the number of the last one), queues, candidates, ledger.

    longest_delay : spikes of so many last bursts are under way.
    """

    def __init__(self, ledger_window: int, longest_delay: int) -> None:
        self._window, self.longest_delay = ledger_window, longest_delay
        self.reset()

    def reset(self) -> None:
        """As before the first burst."""
        self.burst = 0
        self.queues: dict[int, Queue] = {}
        """Burst -> what fired, of the last bursts in which something did."""
        self.candidates = no_queue()
        self.ledger: dict[int, U32] = {}

    def queue(self, bursts_ago: int = 1) -> Queue:
        """What fired in the last burst (1), or so many bursts before the next one."""
        return self.queues.get(self.burst + 1 - bursts_ago, no_queue())

    def earlier(self) -> tuple[Queue, ...]:
        """The queues under way from before the last two, oldest first."""
        return tuple(self.queue(ago) for ago in range(min(self.longest_delay, self.burst), 2, -1))

    def note(self, burst: int, queue: Queue, candidates: Queue) -> None:
        """A burst is over."""
        self.burst, self.candidates = burst, candidates
        if len(queue[0]):
            self.queues[burst] = queue
        self.queues.pop(burst - max(self.longest_delay, 2), None)
        self.ledger[burst] = queue[0]
        self.ledger.pop(burst - self._window, None)

    def resume(self, flight: Flight) -> None:
        """As after the last burst of this flight."""
        self.burst = flight.burst
        queues = *flight.earlier, flight.previous, flight.fired
        self.queues, self.candidates = dict(enumerate(queues, flight.burst - len(queues) + 1)), flight.candidates
        self.ledger.update(enumerate(flight.ledger, flight.burst - len(flight.ledger) + 1))
