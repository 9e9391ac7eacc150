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
