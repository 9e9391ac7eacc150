"""Stimulus of bursts to come, added call by call and taken burst by burst, at a cost that does not grow with what waits."""

from __future__ import annotations

from functools import reduce

import numpy as np

from gpu_npu.arrays import F32, U32, U64
from gpu_npu.backends.flight import Scheduled


class ScheduleStore:
    """The items are kept in sorted runs, the oldest first, each more than twice as long as the next. A new run is merged with
    the runs before it that are not, so n items, however they come, are merged log2(n) times, and a burst looks at log2(n) runs."""

    def __init__(self) -> None:
        self._runs: list[Scheduled] = []
        self._fresh: list[tuple[U64, U32, F32]] = []

    def add(self, bursts: U64, neurons: U32, potentials: F32 | None) -> None:
        """More items, younger than those that are there; None: to be forced."""
        if len(bursts):
            self._fresh.append((bursts, neurons, np.full(len(neurons), np.nan, np.float32) if potentials is None else potentials))

    def _sorted_runs(self) -> list[Scheduled]:
        """All that is there, as runs."""
        if self._fresh:
            run = Scheduled.none().plus(*(np.concatenate(column) for column in zip(*self._fresh, strict=True)))
            self._fresh = []
            while self._runs and len(self._runs[-1].burst) <= 2 * len(run.burst):
                run = self._runs.pop().plus(*run)
            self._runs.append(run)
        return self._runs

    def forget(self, burst: int) -> None:
        """What was scheduled up to this burst is over."""
        self._runs = [rest for run in self._sorted_runs() if len((rest := run.after(burst)).burst)]

    def next_burst(self) -> int | None:
        """The first burst for which something is scheduled."""
        return min((int(run.burst[0]) for run in self._sorted_runs()), default=None)

    def count(self, last: int) -> int:
        """Items up to burst `last`."""
        return sum(int(np.searchsorted(run.burst, np.uint64(last), side="right")) for run in self._sorted_runs())

    def upto(self, last: int) -> Scheduled:
        """Items up to burst `last`."""
        return reduce(lambda items, run: items.plus(*run), (run.upto(last) for run in self._sorted_runs()), Scheduled.none())

    def after(self, burst: int) -> Scheduled:
        """Items of bursts later than this one."""
        return reduce(lambda items, run: items.plus(*run), (run.after(burst) for run in self._sorted_runs()), Scheduled.none())
