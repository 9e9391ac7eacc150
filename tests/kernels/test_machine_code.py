"""What the compiler makes of the loads and additions that propagation is made of: read in the machine code, without a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from gpu_npu.backends.kernels import Program
from gpu_npu.backends.toolchain import compile_cubin


def nvdisasm() -> Path:
    """NVIDIA's disassembler, from the wheel nvidia-cuda-nvdisasm."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(folder).glob("cu*/bin/nvdisasm"):
            return found
    (pytest.fail if os.environ.get("CI") else pytest.skip)("nvidia-cuda-nvdisasm is not installed")


def instructions(architecture: int, folder: Path) -> Mapping[str, Counter[str]]:
    """Kernel -> atomic instructions and generic loads, as often as they stand in its code."""
    program = Program.of_project()
    cubin = folder / f"{architecture}.cubin"
    tool = nvdisasm()
    cubin.write_bytes(compile_cubin(program.sources, program.unit, architecture)[0])
    text = subprocess.run([tool, "-c", cubin], capture_output=True, text=True, check=True).stdout
    told: dict[str, Counter[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"\.text\.(\w+):", line):
            told[match[1]] = Counter()
        elif match := re.search(r"\b(ATOMG?|ATOMS|REDG?|LD)\.([A-Z0-9.]+)", line):
            told[list(told)[-1]][f"{match[1].replace('REDG', 'RED')}.{match[2]}"] += 1
    return told


@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_additions_of_propagation_fetch_nothing(architecture: int, tmp_path: Path) -> None:
    """In a launch of many bursts, which has fences, as in one of the phase alone. Shared memory has no addition of 64 bits."""
    told = instructions(architecture, tmp_path)
    alone, wide = told["propagation"], "RED.E.ADD.64.STRONG.GPU"
    for among in ("run_bursts", "run_learning_bursts"):
        assert told[among][wide] >= alone[wide] > 0
    assert not [name for name in alone if name.startswith("ATOMG")]
    for kernel in told.values():  # what lies in global memory is read by LDG; for sm_100 and above some is not yet
        assert sum(count for name, count in kernel.items() if name.startswith("LD.")) <= (60 if architecture >= 100 else 0)
    assert alone["ATOMS.ADD"] > 0 and not [name for name in alone if name.startswith("ATOMS.CAS")]


def listing(architecture: int, kernel: str, folder: Path) -> list[str]:
    """The instructions of a kernel, in their order."""
    program = Program.of_project()
    cubin = folder / f"{architecture}.cubin"
    cubin.write_bytes(compile_cubin(program.sources, program.unit, architecture)[0])
    text = subprocess.run([nvdisasm(), "-c", cubin], capture_output=True, text=True, check=True).stdout
    body = re.search(rf"\.text\.{kernel}:(.*?)(?=\n\.text\.|\Z)", text, re.DOTALL)
    assert body
    lines = (re.sub(r"/\*.*?\*/", "", line).strip() for line in body[1].splitlines())
    return [line.rstrip(" ;") for line in lines if line.endswith(";")]


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
def test_the_loads_of_a_batch_are_under_way_together(architecture: int, tmp_path: Path) -> None:
    """Each would else wait for the one before it: at 4 a batch a quarter of the rate."""
    batches = batches_of(listing(architecture, "run_bursts", tmp_path))
    sizes = Counter(sum("CONSTANT" in text for text in batch) for batch in batches)
    # Slices and ranges of packed terms, of rows and of their tails. On sm_120 four are two batches of two, one after the other.
    assert sizes == {4: 4, 1: 4}, sizes
    for batch in batches:
        assert not used_too_early(batch)
