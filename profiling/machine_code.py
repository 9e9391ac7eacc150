"""What the compiler makes of the kernels, read in the machine code without a GPU: a table, and what is worse than in the last one.

    python -m profiling.machine_code [--json profiling/results/machine-code.json]

For each kernel and architecture: registers of a thread, bytes of spilled registers, bytes of shared memory, and how many
instructions of some kinds stand in its code. What stands there is what can run, not what does: a loop counts once, and so does
each of its cases. Needs NVIDIA's compiler and disassembler as wheels (nvidia-cuda-nvrtc, nvidia-cuda-nvdisasm).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from gpu_npu.backends import toolchain
from gpu_npu.backends.kernels import Program
from gpu_npu.errors import NpuError, problem_of
from profiling.workloads import ROOT, check_output, write

TABLE = ROOT / "profiling" / "results" / "machine-code.json"
KINDS: Mapping[str, str] = {
    "instructions": "",
    "generic loads": r"LD\.",
    "loads": r"LDG",
    "stores": r"STG",
    "additions": r"REDG?\.|RED\.",
    "atomics that return": r"ATOMG?\.",
    "atomics of shared memory": r"ATOMS",
    "shuffles": r"SHFL",
    "votes": r"VOTE",
    "barriers": r"BAR\.|WARPSYNC",
    "reciprocals": r"MUFU\.RCP",
}
"""Kinds of instructions: how their names begin. Divisions of 64 bits are calls that begin with a reciprocal."""
SLACK = 1.05
"""So much more of a kind is not yet worse: compilers differ by their version."""
Usage = dict[str, int]
Table = dict[str, dict[str, Usage]]
"""Architecture -> kernel -> registers, spills, shared memory, and KINDS."""


def nvdisasm() -> Path:
    """NVIDIA's disassembler. FileNotFoundError where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(folder).glob("cu*/bin/nvdisasm"):
            return found
    raise FileNotFoundError("nvdisasm is not installed; pip install nvidia-cuda-nvdisasm")


@cache
def listings(architecture: int) -> dict[str, list[str]]:
    """Kernel -> its instructions in their order, without addresses."""
    program = Program.of_project()
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        cubin.write_bytes(toolchain.compile_cubin(program.sources, program.unit, architecture)[0])
        text = subprocess.run([nvdisasm(), "-c", cubin], capture_output=True, text=True, check=True).stdout
    told: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"\.text\.(\w+):", line):
            told[match[1]] = []
        elif told and line.rstrip(" \t/*0123456789abcdefx").endswith(";"):
            told[list(told)[-1]].append(re.sub(r"/\*.*?\*/", "", line).strip(" ;"))
    return told


def usage(architecture: int) -> dict[str, Usage]:
    """Of every kernel."""
    program = Program.of_project()
    found = toolchain.usage(toolchain.compile_cubin(program.sources, program.unit, architecture)[1])
    table = {}
    for kernel, instructions in listings(architecture).items():
        names = [text.split(None, 1)[1] if text.startswith("@") else text for text in instructions]
        use = found[kernel]
        counts = {kind: sum(re.match(begins, name) is not None for name in names) for kind, begins in KINDS.items()}
        table[kernel] = {"registers": use.registers, "spills": use.spill_stores + use.spill_loads, "shared": use.shared, **counts}
    return table


def worse(before: Table, now: Table) -> list[str]:
    """A line for each number that has grown, of what both tables have."""
    return [
        f"sm_{architecture}, {kernel}: {what} {before[architecture][kernel][what]:,} -> {value:,}"
        for architecture, kernels in now.items()
        for kernel, numbers in kernels.items()
        for what, value in numbers.items()
        if value > SLACK * before.get(architecture, {}).get(kernel, {}).get(what, value)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the table here")
    options = parser.parse_args(arguments)
    check_output(parser, options.json)
    try:
        table = {str(architecture): usage(architecture) for architecture in toolchain.ARCHITECTURES}
    except (NpuError, OSError) as error:
        print(f"Error: {problem_of(error)}", file=sys.stderr)
        return 1
    for architecture, kernels in table.items():
        for kernel, numbers in kernels.items():
            print(f"sm_{architecture} {kernel}: " + ", ".join(f"{what} {value}" for what, value in numbers.items() if value))
    for line in worse(json.loads(TABLE.read_text())["table"], table) if TABLE.exists() else ():
        print(f"worse: {line}")
    if options.json:
        write(options.json, {"benchmark": "machine code", "table": table})
    return 0


if __name__ == "__main__":
    sys.exit(main())
