"""What a run added up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu_npu.arrays import F64
from gpu_npu.objects import OneLine

from .activity import Active, Activity


@dataclass(frozen=True)
class Note:
    """Something about a run that its user should know."""

    text: str
    python: str = ""
    """The way out in Python."""
    command: str = ""
    """The way out on the command line."""

    def __str__(self) -> str:
        return f"{self.text}; {self.python}" if self.python else self.text


@dataclass(frozen=True, repr=False, eq=False)
class Result(OneLine):
    """A run, or as much of it as was computed.

    What adds up (fired, counters, activity, digest) is of the whole run, with the bursts before it was resumed; times are of
    this process.
    """

    network: str
    """Its name."""
    backend: str
    backend_reason: str
    seed: int
    neurons: int
    synapses: int
    memory: Mapping[str, int]
    """Bytes on the device by piece, before the first burst."""
    memory_at_end: int
    """Bytes on the device in all, after the last."""
    load_seconds: float
    """Of the backend's load and what goes with it; reading the network is not in it."""
    asked: int
    """Bursts of the whole run, as it was asked for."""
    bursts: int
    """Bursts that were computed, those before it was resumed among them."""
    before: int
    """Bursts before it was resumed."""
    interrupted: bool
    fired: int
    """Neurons that fired, summed over bursts."""
    counters: Mapping[str, int]
    """Sums of the counters of a burst, by name."""
    seconds: float
    """Of injecting and computing, without drawing a stimulus and recording."""
    synaptic: int
    """Synaptic events of this process."""
    times: F64
    """Seconds of a burst by the device's clock, of the last 2^20 bursts of this process; in no order."""
    phase_bursts: int
    phase_seconds: Mapping[str, float] | None
    """Mean seconds by phase of `phase_bursts` further bursts, which count for nothing else; None: they were not timed."""
    activity: Activity
    most_active: tuple[Active, ...]
    """The neurons that fired most, the most first."""
    record: str | None
    """File of the fired ids; with a * in its name where they are in parts."""
    checkpoint: Path | None
    digest: str
    """SHA-256 of what fired in all bursts."""
    notes: tuple[Note, ...]
    """What its user should know: a run in which nothing was driven or delivered, in which activity feeds itself, ..."""

    @property
    def timed(self) -> int:
        """Bursts of this process."""
        return self.bursts - self.before

    @property
    def mean(self) -> float | None:
        """Of the time of a burst, in seconds; None: no burst was computed."""
        return self.seconds / self.timed if self.timed else None

    @property
    def rate(self) -> float | None:
        """Bursts a second."""
        return self.timed / self.seconds if self.timed else None

    @property
    def synaptic_rate(self) -> float | None:
        """Synaptic events a second."""
        return self.synaptic / self.seconds if self.timed else None

    def percentile(self, q: float) -> float | None:
        """Of the time of a burst, in seconds. q: 0..100."""
        return float(np.percentile(self.times, q)) if len(self.times) else None
