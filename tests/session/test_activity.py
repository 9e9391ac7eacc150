"""The picture of a run is of the bursts that were run, however many were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_npu import Annotations
from gpu_npu.session.activity import COLUMNS, MOST_ACTIVE, Activity, most_active


def activity(fired: list[int]) -> Activity:
    made = Activity()
    for count in fired:
        made.add(count)
    return made


@pytest.mark.parametrize(("fired", "picture"), [([], ""), ([0], " "), ([5], "█"), ([1, 2, 4, 8, 0], "▁▂▄█ "), ([0, 0], "  ")])
def test_short_runs_have_a_column_a_burst(fired: list[int], picture: str) -> None:
    assert activity(fired).picture() == picture


@pytest.mark.parametrize("bursts", [59, 60, 61, 959, 960, 961, 1000, 1921, 5000, 12_345])
def test_a_ramp_is_a_ramp_whatever_its_length(bursts: int) -> None:
    """A run that was broken off after so many bursts; nothing else is known of its length."""
    ramp = activity(list(range(1, bursts + 1)))
    picture = ramp.picture()
    assert len(picture) == min(bursts, COLUMNS) and sorted(picture) == list(picture) and picture[-1] == "█"
    assert set(picture) == set("▁▂▃▄▅▆▇█") and abs(picture.count("▁") - len(picture) / 8) < 2
    assert sum(ramp.counts) == bursts * (bursts + 1) // 2 and len(ramp.counts) <= 16 * COLUMNS


@pytest.mark.parametrize("bursts", [61, 961, 1921, 4321])
def test_steady_activity_is_level_where_the_last_stretch_is_short(bursts: int) -> None:
    assert set(activity([7] * bursts).picture()) == {"█"}


@pytest.mark.parametrize("cut", [1, 60, 959, 960, 961, 2500])
def test_what_was_counted_before_goes_on(cut: int) -> None:
    fired = np.random.default_rng(0).integers(0, 50, 3000).tolist()
    first = activity(fired[:cut])
    second = Activity(first.counts, first.width, first.bursts)
    for count in fired[cut:]:
        second.add(count)
    straight = activity(fired)
    assert (second.counts, second.width, second.picture()) == (straight.counts, straight.width, straight.picture())


def test_the_most_active_are_named_by_their_labels() -> None:
    fired = np.array([0, 5, 7, 5, 0, 1])
    named = most_active(fired, Annotations(np.array(["a", "b", "c", "d"])))
    assert named == ((2, "c", 7), (1, "b", 5), (3, "d", 5), (5, "#5", 1))
    assert [one.neuron for one in most_active(np.arange(100), Annotations())] == list(range(99, 99 - MOST_ACTIVE, -1))
    assert most_active(np.zeros(4, np.int64), Annotations()) == ()
