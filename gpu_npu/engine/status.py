"""What an engine counts, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import OneLine, described
from gpu_npu.timing import SECOND, Histogram, Summary, now

State = Literal["paused", "running", "stopped", "failed"]


@dataclass(frozen=True, repr=False)
class EngineStatus(OneLine):
    """What an engine says of itself; times in seconds, counts since it was made.

    Attributes
    ----------
    state : "paused" (also before the first start), "running", "stopped" or "failed".
    frequency : the target in Hz; None is as fast as it goes.
    burst : number of the last burst.
    bursts, fired, sensory_injections, synaptic_injections : computed by this engine, and what they add up to.
    bursts_per_second : over the last second or so; 0 where no burst came.
    burst_seconds : time of a burst, from taking the sensory input to the fired ids at hand.
    lateness_seconds : of the beginning of a burst, after its deadline; only bursts at a frequency have one.
    overruns : deadlines that passed while a burst, its publishing or an edit was still under way.
    missed : deadlines that were skipped, because a later one had passed too.
    refused : injections that the NPU refused when their turn came, or that met the end of the engine.
    waiting : calls and injections that wait for their turn.
    sinks, sources : name -> counters of its own.
    error : what ended a failed engine.
    """

    state: State
    frequency: float | None
    burst: int
    bursts: int
    fired: int
    sensory_injections: int
    synaptic_injections: int
    bursts_per_second: float
    burst_seconds: Summary
    lateness_seconds: Summary
    overruns: int
    missed: int
    refused: int
    waiting: int
    sinks: dict[str, dict[str, int]]
    sources: dict[str, dict[str, int]]
    error: str | None


class Counts:
    """Bursts of an engine and what they did, under the names of `EngineStatus`."""

    def __init__(self, last_burst: int) -> None:
        self.burst = last_burst
        self.bursts = self.fired = self.sensory_injections = self.synaptic_injections = 0
        self.overruns = self.missed = self.refused = 0
        self.burst_times, self.lateness = Histogram(), Histogram()
        self._rate = 0.0
        self._measured_from = now(), 0  # time, and bursts up to then

    def __repr__(self) -> str:
        return described(self, f"{self.bursts:,} bursts up to burst {self.burst:,}")

    def add(self, result: BurstResult, ended: int) -> None:
        """A burst was over at `ended`, in nanoseconds."""
        self.burst = result.burst
        self.bursts += 1
        self.fired += result.neuron_count
        self.sensory_injections += result.sensory_injections
        self.synaptic_injections += result.synaptic_injections
        then, before = self._measured_from
        if ended - then >= SECOND:
            self._rate, self._measured_from = (self.bursts - before) * SECOND / (ended - then), (ended, self.bursts)

    def serve(self, late: int, skipped: int) -> None:
        """A deadline was served, so many nanoseconds late, and those before it were skipped."""
        self.lateness.record(late)
        self.missed += skipped

    def restart_rate(self) -> None:
        """Bursts a second are counted from now on."""
        self._rate, self._measured_from = 0.0, (now(), self.bursts)

    def rate(self, frequency: float | None) -> float:
        """Bursts a second; 0 where none has come for two seconds, or two periods."""
        old = now() - self._measured_from[0] > 2 * SECOND * max(1, 1 / (frequency or 1))
        return 0.0 if old else self._rate
