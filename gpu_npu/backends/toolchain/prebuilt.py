"""CPU libraries built in advance: what the Linux x86-64 wheel carries, one for each level of the x86-64 instruction set.

Named like an entry of the cache: by a digest of the kernels and flags that it was built from, so that one of other sources
is never found, and by a digest of its bytes, so that a damaged one is not there.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from gpu_npu.backends.toolchain import cache

V2 = frozenset({"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"})
V3 = V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
LEVELS: Mapping[str, frozenset[str]] = {"x86-64-v3": V3, "x86-64-v2": V2}
"""Level -> the CPU features it may use, by Linux's names; the best one first."""
CPUINFO = Path("/proc/cpuinfo")


def folder() -> Path:
    """Where a wheel has them; a checkout has none."""
    return Path(__file__).resolve().parents[2] / "prebuilt"


def suffix(level: str) -> str:
    """What the name of a library of this level ends with."""
    return f".{level}.so"


def possible() -> bool:
    """Whether this is Linux on x86-64."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def runnable() -> list[str]:
    """The levels that this CPU and its operating system support, the best one first."""
    if not possible():
        return []
    try:
        lines = CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    features = [frozenset(line.partition(":")[2].split()) for line in lines if line.partition(":")[0].strip() == "flags"]
    present = frozenset.intersection(*features) if features else frozenset()
    return [level for level, wanted in LEVELS.items() if wanted <= present]


def find(key: str) -> list[tuple[Path, str]]:
    """(file, level) of the libraries of this key that this CPU runs, the best one first."""
    files = ((path, level) for level in runnable() for path in folder().glob(f"{key}-*{suffix(level)}"))
    return [(path, level) for path, level in files if cache.is_sound(path, key, suffix(level))]
