"""Deadlines that do not drift, and percentiles in bounded memory."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_npu import NetworkError, timing
from gpu_npu.timing import SECOND, Histogram, Pace, check_frequency


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.time = 10**15

    def __call__(self) -> int:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "now", clock)
    return clock


@pytest.mark.parametrize("hertz", [15, 30, 1000 / 7, 0.01, 1e6])
def test_deadlines_do_not_drift(hertz: float, clock: Clock) -> None:
    """However late each wake-up is, deadline k stays at origin + k / frequency, to the nanosecond."""
    pace, origin = Pace(hertz), clock.time
    for k in range(3000):
        ahead = pace.remaining()
        assert abs(Fraction(clock.time + ahead - origin) - k * SECOND / Fraction(hertz)) <= 1
        clock.time += ahead + min(round(SECOND / hertz) // 3, 90_000)
        late, skipped = pace.serve(clock.time) or (-1, -1)
        assert (late, skipped) == (min(round(SECOND / hertz) // 3, 90_000), 0)


def test_what_was_missed_is_skipped_and_never_caught_up(clock: Clock) -> None:
    pace = Pace(100)
    assert pace.first
    assert pace.serve(clock.time) == (0, 0)
    assert not pace.first
    clock.time += 15_000_000  # the deadline at 10 ms is served 5 ms late
    assert pace.remaining() == -5_000_000
    assert pace.serve(clock.time) == (5_000_000, 0)
    clock.time += 40_000_000  # at 55 ms: those at 20, 30 and 40 are gone
    assert pace.serve(clock.time) == (5_000_000, 3)
    assert pace.remaining() == 5_000_000


def test_another_frequency_counts_from_the_last_deadline(clock: Clock) -> None:
    pace = Pace(10)
    pace.serve(clock.time)
    clock.time += 50_000_000
    pace.change(5)
    assert pace.remaining() == 150_000_000
    pace.change(100)  # its deadline has passed: now, and none is missed
    assert pace.remaining() == 0
    assert pace.serve(clock.time) == (0, 0)
    pace.change(None)
    assert (pace.remaining(), pace.serve(clock.time)) == (0, None)
    pace.change(10)
    assert pace.remaining() == 100_000_000
    pace.restart()
    assert (pace.remaining(), pace.first) == (0, True)


@pytest.mark.parametrize("frequency", [0, -1, 0.001, 2e6, math.nan, -math.inf, "30", True])
def test_frequencies_that_are_none(frequency: object) -> None:
    with pytest.raises(NetworkError, match=r"frequency: .* is not within 0.01..1,000,000 Hz; None is as fast as it goes"):
        check_frequency(frequency)


def test_frequencies() -> None:
    assert [check_frequency(f) for f in (15, 0.01, 1e6, None, math.inf)] == [15.0, 0.01, 1e6, None, None]


@given(st.lists(st.one_of(st.integers(0, 300), st.integers(0, 2**40), st.integers(2**62, 2**63 - 1)), min_size=1, max_size=60))
def test_percentiles_are_within_a_bucket(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    summary = histogram.summary()
    assert summary.count == len(values)
    assert summary.max == max(values) / SECOND
    assert summary.mean == sum(values) / len(values) / SECOND
    assert histogram.total == sum(values) / SECOND
    for share, found in ((0.5, summary.p50), (0.99, summary.p99), (0.999, summary.p999)):
        exact = sorted(values)[math.ceil(share * len(values)) - 1]
        assert exact / SECOND <= found <= min(exact * (1 + 2**-6), max(values)) / SECOND * (1 + 1e-15)


def test_an_empty_histogram() -> None:
    summary = Histogram().summary()
    assert (summary.count, summary.mean, summary.p50, summary.p999, summary.max) == (0, 0, 0, 0, 0)
    assert Histogram().at_most([0, 1e-3, 1e9]) == [0, 0, 0]


def test_how_many_were_at_most_so_long() -> None:
    histogram = Histogram()
    values = np.random.default_rng(0).integers(0, 10**9, 2000)
    for value in values.tolist():
        histogram.record(value)
    bounds = [0.0, 1e-4, 0.01, 0.1, 0.5, 1.0, 100.0]
    for bound, found in zip(bounds, histogram.at_most(bounds), strict=True):
        assert np.count_nonzero(values <= bound * SECOND / (1 + 2**-6)) <= found <= np.count_nonzero(values <= bound * SECOND)
    assert histogram.at_most([1.02]) == [2000]
