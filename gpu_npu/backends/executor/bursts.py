"""Bursts: what is launched for them, one at a time or many ahead of whoever reads, and what comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from gpu_npu.backends.base import BurstOutput, Chunk, Phases
from gpu_npu.backends.devices.base import Launch
from gpu_npu.backends.executor.context import Context, Store
from gpu_npu.backends.executor.fired import FireStore
from gpu_npu.backends.executor.plasticity import Plasticity
from gpu_npu.backends.executor.ring import Ring
from gpu_npu.backends.executor.schedule import ScheduleWindow
from gpu_npu.backends.executor.staging import Staging
from gpu_npu.backends.layout import ARRAY, CONTROL
from gpu_npu.connectome.fields import COUNTERS

LAUNCH_NANOSECONDS = 100_000_000
"""After this time a launch begins no further burst: Ctrl-C is heard, and no watchdog of a display driver bites."""
AT_ONCE = 2**30
"""Bursts that run without a look at the clock of plasticity, which counts in 32 bits."""
_SYNAPTIC = tuple(COUNTERS).index("synaptic_injections")


class Bursts(Store):
    """The bursts of one network. `tasks_stale`: the tasks of queues under way are those of rows before an edit."""

    def __init__(
        self,
        context: Context,
        lengths: Mapping[str, int],
        ring: tuple[int, int],
        fired: FireStore,
        staging: Staging,
        schedule: ScheduleWindow,
        plasticity: Plasticity,
    ) -> None:
        super().__init__(context, [ARRAY["control"]], lengths)
        self._fired, self._staging, self._schedule, self._plasticity = fired, staging, schedule, plasticity
        self._rings = [Ring(context, *ring) for _ in range(2)]
        self._events = 0  # synapses that delivered in the last burst
        self.tasks_stale = False
        # A burst phase by phase; the State is read when they run.
        self._propagation = {late: [context.prepared("late_propagation" if late else "propagation")] for late in (False, True)}
        self._phase_launches = {
            "dynamics": [context.prepared("neuron_dynamics")],
            "archival": [self._rings[0].archive],
        }
        self._list_tasks = [context.prepared("forget_tally", single=True), context.prepared("tally")]
        self._learning = [context.prepared("plan_visits"), context.prepared("visit_synapses")]
        self._inject_scheduled = context.prepared("inject_from_schedule")

    def reset(self) -> None:
        """As before the first burst."""
        self.device.zero(self.arrays["control"])

    def resume(self, burst: int) -> None:
        """As after this burst."""
        self.tasks_stale = True
        control = np.zeros(len(CONTROL), np.uint64)
        control[CONTROL.index("burst")] = burst
        self.upload("control", control)
        self.device.wait()

    # -- one burst -----------------------------------------------------------------------------------------------
    def one(self, number: int) -> BurstOutput:
        """Compute a burst in one launch."""
        begun = self._fired.burst
        try:
            self._schedule.open(number)
            self._launch(self._rings[0], number, self._opening())
            self._staging.clear()
            return self._collect()
        except BaseException:
            self._catch_up(begun)
            raise

    def one_by_phases(self, number: int, phases: Phases) -> BurstOutput:
        """Compute a burst with a launch for each phase, timed and shown as `phases` says."""
        with phases.phase("injection", number):
            self._schedule.open(number)
            self._launch_apart([*self._opening(), self._inject_scheduled], phases)
            self._staging.clear()
        for phase, launches in {"propagation": self._propagation[self._late], **self._phase_launches}.items():
            with phases.phase(phase, number):
                after = [*(self._learning if self._plasticity.on else ()), self._rings[0].finish] if phase == "archival" else []
                self._launch_apart(launches + after, phases)
        with phases.phase("transfer", number):
            return self._collect()

    def _launch(self, ring: Ring, last: int, before: list[Launch]) -> None:
        """Bursts up to `last`, as far as the ring and the time of a launch reach."""
        ring.last[0], ring.read[0], ring.nanoseconds[0] = last, self._fired.burst, LAUNCH_NANOSECONDS
        alone = self.device.alone
        little = self.neurons <= alone and self._events <= 4 * alone
        plain = not self._plasticity.on and not self._late
        self.device.launch([*before, ring.run[plain, little]])

    @property
    def _late(self) -> bool:
        """Are spikes kept for more than one burst?"""
        return int(self.context.state["longest_delay"][0]) > 1

    def _opening(self) -> list[Launch]:
        """What comes before the next burst: what is staged, and the tasks of queues under way afresh where rows were edited since they
        were written. What may need memory comes before anything changes, and what only a burst may change is last."""
        launches = self._staging.launches()
        self.tasks_stale = self.tasks_stale or self._plasticity.stale
        self._plasticity.begin()
        stale, self.tasks_stale = self.tasks_stale, False
        return launches + self._list_tasks if stale else launches

    def _launch_apart(self, launches: list[Launch], phases: Phases) -> None:
        """The launches of a phase that is looked at. A profiler sees for itself how long they take; a clock has to wait."""
        self.device.launch(launches)
        if phases.seconds is not None:
            self.device.wait()

    def _collect(self) -> BurstOutput:
        """What the burst just launched left, after the one wait of it."""
        self.device.wait()
        count, fired, numbers = self._rings[0].one()
        self._fired.note(self._fired.burst + 1, count)
        self._events = numbers[_SYNAPTIC]
        if fired is None:
            fired = self._fired.queue_ids(count)
        return BurstOutput(fired, tuple(numbers[: len(COUNTERS)]), numbers[len(COUNTERS)])

    # -- many bursts ---------------------------------------------------------------------------------------------
    def run(self, last: int, phases: Phases) -> Iterator[Chunk]:
        """Bursts up to `last`, in chunks."""
        while self._fired.burst < last:
            scheduled = self._schedule.open(self._fired.burst + 1)
            yield from self._run(min(last, scheduled, self._fired.burst + AT_ONCE), phases)

    def _run(self, last: int, phases: Phases) -> Iterator[Chunk]:
        """While the host has one ring, the device fills the other; who reads slowly holds it up, and nothing is lost. A launch
        that ends early leaves the rest to the next."""
        free, pending, reached = list(self._rings), deque[tuple[Ring, Any]](), self._fired.burst
        chunk: Chunk | None = None
        begun = self._fired.burst
        try:
            before = self._opening()
            while True:
                while free and reached < last:
                    ring = free.pop()
                    reached = min(last, reached + ring.bursts)
                    self._launch(ring, last, before)
                    if before:
                        self._staging.clear()
                        before = []
                    pending.append((ring, self.device.mark()))
                if chunk is not None:
                    yield chunk
                if not pending:
                    return
                ring, mark = pending.popleft()
                with nullcontext() if phases.ranges is None else phases.ranges.range("chunk", self._fired.burst + 1):
                    self.device.wait(mark)
                    chunk = self._read(ring)
                free.append(ring)
                if not pending:
                    reached = self._fired.burst
        except BaseException:
            self._catch_up(begun)
            raise

    def _read(self, ring: Ring) -> Chunk | None:
        """The bursts of a launch; None where there are none, because the one before it had left a burst unread."""
        fired = self._fired
        chunk, unread = ring.chunk(fired.burst + 1)
        if not len(chunk):
            return None
        counts = np.diff(chunk.begin)
        previous = int(counts[-2]) if len(counts) > 1 else fired.count
        fired.burst += len(chunk)
        if unread:  # the last burst's ids are in its queue still
            counts[-1] = fired.queue_count()
            ids = np.concatenate((chunk.fired, fired.queue_ids(int(counts[-1]))))
            chunk = Chunk(chunk.first, np.append(chunk.begin[:-1], len(ids)), ids, chunk.counters, chunk.clock)
        fired.note(fired.burst, int(counts[-1]), previous)
        self._events = int(chunk.counters[-1, _SYNAPTIC])
        return chunk

    def _catch_up(self, begun: int) -> None:
        """A signal, or a reader that left, has ended what began after burst `begun` anywhere; what was launched has gone on. The
        device says which burst was its last: if any came after `begun`, the first has taken what was staged, else none has."""
        self.device.wait()
        self.tasks_stale = True
        self._fired.burst = int(self.fetched("control", 1)[CONTROL.index("burst")])
        if self._fired.burst == begun:
            return
        self._staging.clear()
        self._fired.catch_up(self._fired.burst)
