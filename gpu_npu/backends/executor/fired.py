"""Who fired: the fire queues, the ledger, the candidates; and which burst was the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpu_npu.arrays import F32, U32
from gpu_npu.backends.executor.context import Context, Store
from gpu_npu.backends.flight import Flight
from gpu_npu.backends.layout import ARRAY, QUEUE_HEADER, WORD_NEURONS
from gpu_npu.backends.shape import NetworkShape

ARRAYS = (
    "input", "fire_potential", "candidate_bits", "tile_count", "queue", "queue_potential", "queue_task", "fired_bits"
)  # fmt: skip


def bit_set(neurons: int, members: Any) -> U32:
    """A bit for each neuron; `members` picks those that are set: a mask or ids."""
    bits = np.zeros(-(-neurons // WORD_NEURONS) * WORD_NEURONS, np.bool_)
    bits[:neurons][members] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)


class FireStore(Store):
    """What the last bursts left.

    burst : number of the last burst of which the host knows.
    count, previous_count : how many fired in it, and in the one before it.
    """

    def __init__(self, context: Context, lengths: Mapping[str, int], shape: NetworkShape) -> None:
        super().__init__(context, [ARRAY[name] for name in ARRAYS], lengths)
        self._window, self._delay = shape.ledger_window, shape.longest_delay
        self.burst = self.count = self.previous_count = 0

    def note(self, burst: int, count: int, previous_count: int | None = None) -> None:
        """A burst is over. previous_count: None where the one before it is the one noted last."""
        self.previous_count = self.count if previous_count is None else previous_count
        self.burst, self.count = burst, count

    def catch_up(self, burst: int) -> None:
        """The device says that this was the last burst: look there how many fired."""
        self.burst = burst
        self.count = self.queue_count()
        self.previous_count = len(self.fired_in(burst - 1))

    # -- the queues ----------------------------------------------------------------------------------------------
    def queue_at(self, burst: int | None = None) -> int:
        """Where the ids that fired in a burst (the last, or the one before it) begin."""
        return self._turn(self.burst if burst is None else burst) * self._lengths["queue_word"] + QUEUE_HEADER

    def _turn(self, burst: int) -> int:
        """In which queue the ids are that fired in a burst."""
        return burst % self._lengths["turn"]

    def queue_count(self, burst: int | None = None) -> int:
        """How many fired in the last burst, or in one whose spikes are under way, as the device says."""
        return int(self.fetched("queue", 1, self.queue_at(burst) - QUEUE_HEADER)[0])

    def queue_ids(self, count: int) -> U32:
        """So many ids of the last burst's queue."""
        return self.fetched("queue", count, self.queue_at())

    def on_device(self) -> Any:
        """As `Backend.fired_on_device`."""
        return self.device.view(self.arrays["queue"], self.queue_at(), self.count)

    def fire_queue(self, *, previous: bool = False) -> tuple[U32, F32]:
        """As `Backend.fire_queue`."""
        return self._queue(self.burst - 1, self.previous_count) if previous else self._queue(self.burst, self.count)

    def earlier(self) -> tuple[tuple[U32, F32], ...]:
        """The queues under way from before the last two, oldest first."""
        first = max(self.burst - self._delay + 1, 1)
        return tuple(self._queue(burst, self.queue_count(burst)) for burst in range(first, self.burst - 1))

    def _queue(self, burst: int, count: int) -> tuple[U32, F32]:
        at = self._turn(burst) * self.neurons
        return self.fetched("queue", count, self.queue_at(burst)), self.fetched("queue_potential", count, at)

    # -- bits ----------------------------------------------------------------------------------------------------
    def candidates(self) -> tuple[U32, F32]:
        """As `Backend.candidates`."""
        ids = self._ids_in("candidate_bits", 0)
        return ids, self.fetched("input", self.neurons)[ids]

    def fired_in(self, burst: int) -> U32:
        """As `Backend.fired_in`."""
        return self._ids_in("fired_bits", self._ledger_at(burst))

    def ledger(self) -> tuple[U32, ...]:
        """Who fired in the bursts of the window, oldest first."""
        return tuple(self.fired_in(burst) for burst in range(max(1, self.burst - self._window + 1), self.burst + 1))

    def _ledger_at(self, burst: int) -> int:
        return burst % self._lengths["ledger_slot"] * self._lengths["word"]

    def _ids_in(self, bits: str, at: int) -> U32:
        words = self.fetched(bits, self._lengths["word"], at)
        return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).astype(np.uint32)

    # -- starting again ------------------------------------------------------------------------------------------
    def keep(self, longest_delay: int, lengths: Mapping[str, int], fresh: Mapping[str, Any]) -> None:
        """As `move_to`, and keep spikes for so many bursts: no spike that is under way is lost."""
        if longest_delay == self._delay:
            return self.move_to(lengths, fresh)
        queues = self.fire_queue(), self.fire_queue(previous=True), *reversed(self.earlier())
        self._delay = longest_delay
        self.move_to(lengths, fresh)
        self.device.zero(self.arrays["queue"])
        self._set_queues(self.burst, queues)
        self.device.wait()

    def reset(self) -> None:
        """As before the first burst."""
        self.burst = self.count = self.previous_count = 0
        for name in ("queue", "tile_count", "fired_bits", "candidate_bits"):
            self.device.zero(self.arrays[name])

    def resume(self, flight: Flight) -> None:
        """As after the last burst of this flight."""
        self.burst, self.count, self.previous_count = flight.burst, len(flight.fired[0]), len(flight.previous[0])
        self._set_queues(flight.burst, (flight.fired, flight.previous, *reversed(flight.earlier)))
        for burst, ids in enumerate(flight.ledger, flight.burst - len(flight.ledger) + 1):
            self.upload("fired_bits", bit_set(self.neurons, ids), self._ledger_at(burst))
        ids, potentials = flight.candidates
        inputs: F32 = np.zeros(self.neurons, np.float32)
        inputs[ids] = potentials
        self.upload("input", inputs)
        self.upload("candidate_bits", bit_set(self.neurons, ids))
        self.device.wait()

    def _set_queues(self, last: int, queues: Sequence[tuple[U32, F32]]) -> None:
        """These fired in burst `last`, in the one before it, and so on."""
        for ago, (ids, potentials) in enumerate(queues):
            burst = last - ago
            self.upload("queue", ids, self.queue_at(burst))
            self.upload("queue_potential", potentials, self._turn(burst) * self.neurons)
            # A queue that is delivered is the next burst's to fill: its header is that of an empty one.
            if ago < self._delay:
                self.upload("queue", np.array([len(ids)], np.uint32), self.queue_at(burst) - QUEUE_HEADER)
