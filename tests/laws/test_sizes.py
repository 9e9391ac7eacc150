"""Files, classes and signatures have limits; what is beyond one says why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = sorted(path for folder in ("gpu_npu", "profiling") for path in (ROOT / folder).rglob("*.py"))
KERNELS = sorted(path for path in (ROOT / "kernels").rglob("*") if path.suffix in (".cu", ".cuh", ".h", ".cpp"))
FILE_LINES, CLASS_LINES, PARAMETERS = 450, 300, 8

EXCEPTIONS = {
    "gpu_npu/backends/devices/emulated.py: __init__": "a device for tests: an argument for each way in which a device can be unlike others",
    "gpu_npu/backends/executor/plasticity.py: Plasticity": "its visits and its index of incoming synapses share the tables of rules",
    "gpu_npu/backends/executor/rows.py: RowStore": "adding, removing and compacting all decide where rows go",
    "gpu_npu/connectome/connectome.py: Connectome": "each edit of a network with its checks, two to fifteen lines an edit",
    "gpu_npu/engine/engine.py: BurstEngine": "what a caller sees of the thread, its queue and its streams, two to ten lines a call",
    **{
        f"gpu_npu/connectome/generators.py: {name}": "an argument for each property of a synapse"
        for name in ("fixed_in_degree", "fixed_out_degree", "fixed_probability")
    },
    "gpu_npu/genome/grow.py: grow": "an argument for each liberty that FEAGI's growth leaves",
    "gpu_npu/npu/npu.py: __init__": "an argument for each property of a network, and of where it runs",
}
"""What is beyond a limit -> why. A row goes when its reason goes."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*PYTHON, *KERNELS], ids=name_of)
def test_a_file_is_one_room(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= FILE_LINES or name_of(path) in EXCEPTIONS, f"{lines} lines"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_classes_and_signatures_are_small(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            size, limit = (node.end_lineno or 0) - node.lineno + 1, CLASS_LINES
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            size, limit = len([one for one in given if one.arg not in ("self", "cls")]), PARAMETERS
        else:
            continue
        assert size <= limit or f"{name_of(path)}: {node.name}" in EXCEPTIONS, f"{node.name}: {size}, the limit is {limit}"
