"""What nsys_timeline and ncu_kernels have in common: options, the tool looked for, commands shown or run in turn."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from profiling import workload

NOT_FOUND = 127
"""Exit status where the tool is not on PATH, as a shell has it."""


def parser(module: str, doc: str, output: str) -> argparse.ArgumentParser:
    """The options that both have; those of the workload come behind them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] NETWORK [options of profiling.workload]",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, default=Path(output), help="report, without its ending (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the command lines, run nothing")
    return parser


def target(program: str, arguments: Sequence[str]) -> list[str]:
    """The command that is profiled; its options are checked here, before a profiler hides what is wrong."""
    workload.parse(arguments, program)
    return [sys.executable, "-m", workload.__name__, *arguments]


def run(commands: Sequence[Sequence[str]], *, dry_run: bool) -> int:
    """Run one after the other while they succeed; the exit status of the last."""
    if dry_run:
        print(*map(shlex.join, commands), sep="\n")
        return 0
    tool = commands[0][0]
    if shutil.which(tool) is None:
        way_out = "install NVIDIA Nsight Systems and Nsight Compute, or use the container that has them (profiling/README.md)"
        print(f"Error: {tool} is not on PATH: {way_out}", file=sys.stderr)
        return NOT_FOUND
    for command in commands:
        if status := subprocess.run(command).returncode:
            return status
    return 0
