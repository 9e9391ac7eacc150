"""The kernels, as the launcher needs to know them: where their text is, what they take, how they are launched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpu_npu.backends import layout
from gpu_npu.errors import KernelError
from gpu_npu.objects import OneLine

FILES = (
    "injection.cu",
    "propagation.cu",
    "dynamics.cu",
    "archival.cu",
    "plasticity.cu",
    "burst.cu",
    "building.cu",
    "indexing.cu",
    "parameters.cu",
)
HEADERS = (
    "types.cuh",
    "device.cuh",
    "physics.cuh",
    "burst_view.cuh",
    "rows.cuh",
    "deliver.cuh",
    "slices.cuh",
    "owned.cuh",
    "choice.cuh",
    "rules.cuh",
    "sorting.cuh",
)
BLOCKS = {"": 256, "WIDE_": 768, "ROOMY_": 512}
"""Threads a block on a GPU, of a KERNEL, a WIDE_KERNEL and a ROOMY_KERNEL; every kernel is right at any block size."""
BARRIER_SECONDS: float | None = None
"""Set by who first runs kernels on new hardware (`profiling.validate`): a launch whose blocks wait so long for one another ends as an
error, not never."""
ONE_BLOCK = frozenset({"finish_burst"})

_SIGNATURE = re.compile(r"^(WIDE_|ROOMY_)?KERNEL (\w+)\(([^)]*)\)", re.MULTILINE)
_CODES = {"u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8", "i64": "i8", "float": "f4", "Row": "row", "State": "state"}


@dataclass(frozen=True)
class Kernel:
    """A kernel's name and arguments. A code is a NumPy dtype code, with * in front for a pointer, or "state". `names`: of the
    parameters, where they are known.

    `wide`: launched cooperatively, with one block a multiprocessor and all the dynamic shared memory that a block can have.
    """

    name: str
    file: str
    block: int
    single_block: bool
    arguments: tuple[str, ...]
    wide: bool = False
    names: tuple[str, ...] = ()


def folder() -> Path:
    """Where the kernel texts are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "kernels", package.parent / "kernels"):
        if (place / "types.cuh").is_file():
            return place
    raise KernelError(f"the kernel sources are missing: neither in {package / 'kernels'} nor beside the package; reinstall gpu-npu")


@cache
def sources() -> Mapping[str, str]:
    """File name -> text of everything that the compiler is given, the generated header included."""
    texts = {name: read(folder() / name) for name in (*HEADERS, *FILES)}
    return {**texts, "state.cuh": layout.header()}


def read(path: Path) -> str:
    """The text of a source. KernelError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise KernelError(f"a kernel source cannot be read ({path}: {problem}); reinstall gpu-npu") from problem


def unit() -> str:
    """The one translation unit of all kernels."""
    limit = "" if BARRIER_SECONDS is None else f"#define BARRIER_LIMIT {BARRIER_SECONDS * 1e9:.0f}ull\n"
    return limit + "".join(f'#include "{name}"\n' for name in FILES)


def _code(argument: str) -> str:
    words = argument.replace("*", " * ").split()
    kind = next(word for word in words if word != "const")
    return ("*" if "*" in words else "") + _CODES[kind]


@cache
def kernels() -> Mapping[str, Kernel]:
    """Name -> Kernel, read from the sources so that a signature is written once."""
    found = {}
    for file in FILES:
        for wide, name, arguments in _SIGNATURE.findall(sources()[file]):
            codes = tuple(_code(argument) for argument in arguments.split(","))
            names = tuple(argument.replace("*", " ").split()[-1] for argument in arguments.split(","))
            found[name] = Kernel(name, file, BLOCKS[wide], name in ONE_BLOCK, codes, bool(wide), names)
    return found


@dataclass(frozen=True, repr=False)
class Program(OneLine):
    """What a device compiles: file name -> text, the translation unit that includes them, and the kernels by name."""

    sources: Mapping[str, str]
    unit: str
    kernels: Mapping[str, Kernel]

    @staticmethod
    def of_project() -> Program:
        """All kernels of this package."""
        return Program(sources(), unit(), kernels())
