"""What is scheduled, and what is injected several times, against one item at a time."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_npu.backends.reference.staging import add_in_order
from gpu_npu.backends.scheduled import ScheduleStore
from gpu_npu.checks import settle


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_gives_what_was_added_burst_by_burst(seed: int) -> None:
    rng = np.random.default_rng(seed)
    store, waiting, now, age = ScheduleStore(), list[tuple[int, int, int]](), 0, 0
    for _ in range(60):
        count = int(rng.choice([0, 1, 1, 1, 5, 200]))
        when, who = rng.integers(now + 1, now + 30, count), rng.integers(0, 9, count)
        store.add(when.astype(np.uint64), who.astype(np.uint32), np.arange(age, age + count, dtype=np.float32))
        waiting += zip(when.tolist(), who.tolist(), range(age, age + count), strict=True)
        age += count
        waiting.sort()
        assert store.next_burst() == (waiting[0][0] if waiting else None)
        last = now + int(rng.integers(0, 20))
        assert store.count(last) == sum(item[0] <= last for item in waiting)
        for items, expected in (
            (store.upto(last), [item for item in waiting if item[0] <= last]),
            (store.after(last), [item for item in waiting if item[0] > last]),
        ):
            assert list(zip(items.burst.tolist(), items.neuron.tolist(), items.potential.tolist(), strict=True)) == expected
        if rng.random() < 0.5:
            now = last
            store.forget(now)
            waiting = [item for item in waiting if item[0] > now]


def test_a_schedule_of_many_calls_is_kept_in_few_runs() -> None:
    """However it grew: every burst looks at each run."""
    store = ScheduleStore()
    for i in range(2000):
        store.add(np.full(1 + i % 3, 5 + i, np.uint64), np.zeros(1 + i % 3, np.uint32), None)
        assert store.next_burst() == 5
        assert len(store._runs) <= 12


@pytest.mark.parametrize(("count", "neurons"), [(0, 1), (1, 1), (300, 2), (1000, 3), (500, 400), (20_000, 2)])
def test_what_is_injected_several_times_adds_in_order(count: int, neurons: int) -> None:
    rng = np.random.default_rng(count)
    ids = rng.integers(0, neurons, count).astype(np.uint32)
    with np.errstate(over="ignore", under="ignore"):
        values = settle((rng.normal(size=count) * 10.0 ** rng.integers(-39, 39, count)).astype(np.float32))
        sums, expected = np.zeros(neurons, np.float32), np.zeros(neurons, np.float32)
        add_in_order(sums, ids, values)
        for i, value in zip(ids.tolist(), values, strict=True):
            expected[i] = settle(expected[i : i + 1] + value)[0]
    assert sums.tobytes() == expected.tobytes()
