"""What an error says is wrong holds wherever it is read; advice for Python stands apart, in `python`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpu_npu
from gpu_npu import errors
from gpu_npu.errors import NetworkError, NpuError, problem_of

ROOT = Path(gpu_npu.__file__).parent
FAMILY = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, NpuError)}
CALLS = re.compile(r"\w\(\)|\w\(\w+=|\w+=\.\.\.|\bnp\.\w")
"""What only somebody who writes Python can do something with."""


def problems() -> Iterator[tuple[str, str]]:
    """(place, constant text) of every first argument of an error of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in FAMILY and node.args:
                parts = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(parts)


def test_no_error_tells_everybody_what_only_python_can_do() -> None:
    found = dict(problems())
    assert len(found) > 200
    assert {place: text for place, text in found.items() if CALLS.search(text)} == {}


def test_the_search_finds_what_it_looks_for() -> None:
    for text in ("reserve(neurons=...) makes room", "pause() it first", "make it with np.uint16", "limit=... raises it"):
        assert CALLS.search(text)
    for text in ("the sum (of 3) is 4", "x = 5", "gpu-npu serve --checkpoint FILE", "2**-16"):
        assert not CALLS.search(text)


def test_both_parts_are_told_in_python_and_one_elsewhere() -> None:
    error = NetworkError("17 neurons do not fit", python="reserve(neurons=17) makes room")
    assert str(error) == "17 neurons do not fit; reserve(neurons=17) makes room" and error.args == ("17 neurons do not fit",)
    assert problem_of(error) == "17 neurons do not fit" and problem_of(OSError("full")) == "full"
    with pytest.raises(NpuError, match=r"fit$"):
        raise NetworkError(error.problem)
