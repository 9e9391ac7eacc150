"""The clock of a running engine: deadlines at a frequency, and times in bounded memory.

Nanoseconds of `time.monotonic_ns` are counted in, seconds are handed out.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from gpu_npu.checks import is_real
from gpu_npu.errors import NetworkError
from gpu_npu.objects import described

LOWEST_HZ, HIGHEST_HZ = 0.01, 1e6
"""Of a frequency that is kept; as fast as it goes is none."""
SECOND = 1_000_000_000
"""Nanoseconds."""
PARTS = 6
"""Buckets an octave, as a power of two: 64 of them tell values apart that differ by 1.6 %."""
BUCKETS = (64 - PARTS) << PARTS
"""For any 63-bit number of nanoseconds."""


def _end(bucket: int) -> int:
    """The last nanosecond that a bucket counts."""
    shift = max((bucket >> PARTS) - 1, 0)
    return ((bucket - (shift << PARTS) + 1) << shift) - 1


def now() -> int:
    """Nanoseconds of a clock that nobody sets."""
    return time.monotonic_ns()


def check_frequency(frequency: object) -> float | None:
    """A frequency in Hz; None, and infinity, for as fast as it goes. NetworkError: anything else."""
    if frequency is None or (is_real(frequency) and frequency == math.inf):
        return None
    if not is_real(frequency) or not LOWEST_HZ <= frequency <= HIGHEST_HZ:
        raise NetworkError(
            f"frequency: {frequency!r} is not within {LOWEST_HZ:g}..{HIGHEST_HZ:,.0f} Hz", python="None is as fast as it goes"
        )
    return float(frequency)


class Pace:
    """Deadlines at origin + k / frequency. The origin stays, so nothing adds up: neither late wake-ups nor rounding.

    A deadline that is still ahead is waited for. Of those that have passed, the last one is served, late, and those
    before it are skipped: lost time is never caught up by a burst of bursts.
    """

    def __init__(self, frequency: float | None) -> None:
        self.frequency = frequency
        self._origin, self._next = now(), 0

    def __repr__(self) -> str:
        return described(self, "as fast as it goes" if self.frequency is None else f"{self.frequency:g} Hz")

    def restart(self) -> None:
        """A new origin: now, which is the first deadline."""
        self._origin, self._next = now(), 0

    def change(self, frequency: float | None) -> None:
        """Another frequency: its first deadline is one period after the last that was served, or now."""
        last = self._at(self._next - 1) if self._next and self.frequency is not None else now()
        self.frequency = frequency
        if frequency is not None:
            self._origin, self._next = max(last, now() - self._at(1, 0)), 1

    def _at(self, k: int, origin: int | None = None) -> int:
        return (self._origin if origin is None else origin) + round(k * SECOND / self.frequency)  # type: ignore[operator]

    @property
    def first(self) -> bool:
        """Whether nothing was served since the origin."""
        return self._next == 0

    def remaining(self) -> int:
        """Nanoseconds to the next deadline; 0 or less where it has passed, and where there are none."""
        return 0 if self.frequency is None else self._at(self._next) - now()

    def serve(self, moment: int) -> tuple[int, int] | None:
        """What begins at this moment takes the last deadline that has passed: (nanoseconds late, deadlines skipped).
        None where there are none."""
        if self.frequency is None:
            return None
        due = max(self._next, int((moment - self._origin) * self.frequency / SECOND))
        late, skipped = max(0, moment - self._at(due)), due - self._next
        self._next = due + 1
        return late, skipped


@dataclass(frozen=True)
class Summary:
    """What a Histogram holds, in seconds; 0 where it is empty. A percentile is up to 1.6 % too high, and never too low."""

    count: int
    mean: float
    p50: float
    p99: float
    p999: float
    max: float


class Histogram:
    """Durations in 30 kB, however many: counts in buckets whose width grows with the value, 64 to the octave.

    One thread records; any may read.
    """

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._total = self._most = 0

    def __repr__(self) -> str:
        return described(self, self.summary())

    def record(self, nanoseconds: int) -> None:
        """Count one duration of 0 or more."""
        shift = max(nanoseconds.bit_length() - PARTS - 1, 0)
        self._counts[(shift << PARTS) + (nanoseconds >> shift)] += 1
        self._total += nanoseconds
        self._most = max(self._most, nanoseconds)

    @property
    def total(self) -> float:
        """The sum of all, in seconds."""
        return self._total / SECOND

    def summary(self) -> Summary:
        """Mean, percentiles and maximum so far."""
        total, most = self._total, self._most
        sums = list(accumulate(self._counts))
        count = sums[-1]

        def percentile(share: float) -> float:
            """The end of the first bucket up to which this share of all is counted."""
            return min(_end(bisect_left(sums, math.ceil(share * count))), most) / SECOND if count else 0.0

        mean = total / count / SECOND if count else 0.0
        return Summary(count, mean, percentile(0.5), percentile(0.99), percentile(0.999), most / SECOND)

    def at_most(self, seconds: Sequence[float]) -> list[int]:
        """How many were at most so long, for ascending bounds; right to the width of a bucket."""
        sums = [0, *accumulate(self._counts)]
        return [sums[bisect_right(range(BUCKETS), bound * SECOND, key=_end)] for bound in seconds]
