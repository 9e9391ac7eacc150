"""What the compiler makes of the loads and additions that propagation is made of: read in the machine code, without a GPU."""

from __future__ import annotations

import json
import os
import re
from collections import Counter

import pytest

from gpu_npu.backends.toolchain import ARCHITECTURES
from profiling.machine_code import TABLE, listings, nvdisasm, usage, worse


@pytest.fixture(autouse=True)
def _tool() -> None:
    try:
        nvdisasm()
    except FileNotFoundError as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_worse_than_in_the_table(architecture: int) -> None:
    """Registers, and instructions of each kind. What had to grow is written anew: python -m profiling.machine_code --json ..."""
    table = json.loads(TABLE.read_text())["table"]
    now = usage(architecture)
    assert set(now) == set(table[str(architecture)]), "kernels came or went: write the table anew"
    assert not worse(table, {str(architecture): now})


def test_what_is_worse_is_named() -> None:
    before = {"90": {"inject": {"registers": 20, "loads": 7}}}
    after = {"90": {"inject": {"registers": 22, "loads": 7}}, "91": {"inject": {"registers": 99}}}
    assert worse(before, after) == ["sm_90, inject: registers 20 -> 22"]
    assert worse(before, before) == []


@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_additions_of_propagation_fetch_nothing(architecture: int) -> None:
    """In a launch of many bursts, which has fences, as in one of the phase alone. Shared memory has no addition of 64 bits."""
    told = listings(architecture)

    def count(kernel: str, begins: str) -> int:
        return sum(re.search(rf"\b{begins}", text) is not None for text in told[kernel])

    wide = r"REDG?\.E\.ADD\.64\.STRONG\.GPU"
    for among in ("run_bursts", "run_learning_bursts"):
        assert count(among, wide) >= count("propagation", wide) > 0
    assert count("propagation", "ATOMG") == 0
    for kernel in told:  # what lies in global memory is read by LDG; for sm_100 and above some is not yet
        assert count(kernel, r"LD\.") <= (180 if architecture >= 100 else 0)
    assert count("propagation", r"ATOMS\.ADD") > 0 and count("propagation", r"ATOMS\.CAS") == 0


def batches_of(instructions: list[str]) -> list[list[str]]:
    """The batches of loads of propagation: from the load of a target, which alone is read-only, to the last one before an addition."""
    batches: list[list[str]] = []
    since: list[str] | None = None  # the first load of a batch
    for text in instructions:
        if "LDG" in text and "CONSTANT" in text:
            if since is None:
                batches.append([])
                since = []
            batches[-1] += [*since, text]
            since = []
        elif since is not None:
            since.append(text)
            if re.search(r"\b(RED|ATOM)", text):
                since = None
    return batches


def used_too_early(batch: list[str]) -> list[str]:
    """What reads a value of these loads."""
    early, loaded = [], set[str]()
    for text in batch:
        target, _, rest = text.split(None, 2 if text.startswith("@") else 1)[-1].removeprefix("PT, ").partition(",")  # of a SHFL
        sources = {f"R{int(n) + more}" for n, wide in re.findall(r"\bR(\d+)(\.64)?", rest) for more in range(2 if wide else 1)}
        early += [text] if sources & loaded else []
        loaded = loaded | {target} if "LDG" in text else loaded - {target}
    return early


@pytest.mark.parametrize("architecture", [75, 80, 90, 120])
def test_the_loads_of_a_batch_are_under_way_together(architecture: int) -> None:
    """Each would else wait for the one before it: at 4 a batch a quarter of the rate."""
    batches = batches_of(listings(architecture)["run_bursts"])
    sizes = Counter(sum("CONSTANT" in text for text in batch) for batch in batches)
    # Slices and ranges of packed terms, of rows and of their tails. On sm_120 four are two batches of two, one after the other.
    assert sizes == {4: 4, 1: 4}, sizes
    for batch in batches:
        assert not used_too_early(batch)
