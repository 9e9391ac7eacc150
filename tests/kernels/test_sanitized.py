"""The project's kernels under sanitizers, and bugs planted in them that must be seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from bursts import BUGS, main, program_with
from sanitized import run_sanitized

SCRIPT = str(Path(__file__).with_name("bursts.py"))
RACES = [name for name in BUGS if not name.startswith("the last synapse")]


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_kernels_are_clean(sanitizer: str) -> None:
    done = run_sanitized(sanitizer, [SCRIPT, sanitizer])
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_kernels_are_clean_at_every_block_size(sanitizer: str) -> None:
    done = run_sanitized(sanitizer, [SCRIPT, sanitizer, "", "wide"], timeout=3600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_has_its_place_in_the_kernels(bug: str) -> None:
    program_with(bug)


@pytest.mark.parametrize("bug", RACES)
def test_a_planted_race_is_found(bug: str) -> None:
    done = run_sanitized("thread", [SCRIPT, "thread", bug])
    assert done.returncode == 66
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert BUGS[bug].file in done.stderr


def test_a_planted_mistake_gives_other_spikes() -> None:
    with pytest.raises(AssertionError, match="fired|potentials|counters"):
        main("", "the last synapse of a row is left out")
