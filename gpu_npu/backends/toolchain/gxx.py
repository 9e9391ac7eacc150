"""The CPU builds of the kernels: one shared library of the translation unit, by $CXX or g++, or out of the wheel.

`flat` is the CPU backend (one lane, plain loops), `emulated` runs 32-lane warps for tests and sanitizers; see
kernels/cpu/cuda_on_cpu.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from gpu_npu.backends.kernels import folder as kernels_folder
from gpu_npu.backends.toolchain import cache, prebuilt
from gpu_npu.errors import BackendUnavailableError, KernelError

Flavour = Literal["flat", "emulated"]

# Contraction would fuse a*b+c into one rounding; nothing here may enable fast-math. Dynamic TLS: __shared__ arrays are
# thread_local and too large for the static TLS block of a library that is opened late.
FLAGS = ("-std=c++20", "-ffp-contract=off", "-fno-fast-math", "-fPIC", "-shared", "-pthread",
         "-fvisibility=hidden", "-fno-extern-tls-init", "-Wall", "-Wextra", "-Wno-attributes", "-Wno-unknown-pragmas",
         "-Wno-unused-function")  # fmt: skip
NATIVE = "native"
"""The level (of -march) that stands for the CPU at hand; prebuilt.LEVELS are the others."""


class CpuBuild(NamedTuple):
    """A loaded library and where it is from: "prebuilt x86-64-v3" or "compiled, g++ 12.2.0 -march=native"."""

    library: ctypes.CDLL
    origin: str


def cpu_headers() -> dict[str, str]:
    """File name -> text of kernels/cpu."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((kernels_folder() / "cpu").glob("*.h"))}


def compiler() -> tuple[list[str], str]:
    """The command, and what tells its version, its target and the CPU features that -march=native stands for."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(command[0]) is None:
        raise BackendUnavailableError(
            f"the CPU kernels need a C++20 compiler and {command[0]!r} is not on the PATH: install g++ (apt install g++, "
            "dnf install gcc-c++), name one in the environment variable CXX, or install the Linux x86-64 wheel, which brings them compiled"
        )
    return command, _version(tuple(command))


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    probe = [*command, "-march=native", "-E", "-v", "-x", "c++", os.devnull]
    return subprocess.run(probe, capture_output=True, text=True, check=False).stderr


def build_cpu(
    sources: Mapping[str, str],
    unit: str,
    kernels: Iterable[str],
    *,
    flavour: Flavour = "flat",
    sanitize: str = "",
    defines: Iterable[str] = (),
) -> Path:
    """The shared library of these kernels, from the cache or compiled now.

    `sources`: file name -> text, what `unit` (the translation unit's text) includes; `kernels`: the names to export;
    `sanitize`: "", "address,undefined" or "thread"; `defines`: "NAME=value". Raises BackendUnavailableError where there
    is no compiler, KernelError with the compiler's words where it does not compile.
    """
    command, version = compiler()
    flags, files = _inputs(sources, unit, kernels, flavour=flavour, sanitize=sanitize, defines=defines)
    flags += _machine_flags(version, NATIVE)
    key = cache.digest(version, *command, *flags, *_texts(files))
    return cache.find(key, ".so") or cache.store(key, ".so", _compile(command, flags, files))


def prebuild_cpu(sources: Mapping[str, str], unit: str, kernels: Iterable[str], level: str, folder: Path) -> Path:
    """Build the flat library for a level of prebuilt.LEVELS into `folder`, under the name that `load_cpu` looks for."""
    command, version = compiler()
    flags, files = _inputs(sources, unit, kernels)
    data = _compile(command, flags + _machine_flags(version, level), files)
    path = folder / cache.name_of(_prebuilt_key(flags, files), prebuilt.suffix(level), data)
    path.write_bytes(data)
    return path


def load_cpu(
    sources: Mapping[str, str], unit: str, kernels: Iterable[str], *,
    flavour: Flavour = "flat", sanitize: str = "", defines: Iterable[str] = (),
) -> CpuBuild:  # fmt: skip
    """Open what was built in advance of these very sources, else what is in the cache, else build.

    An entry of the cache that cannot be opened is a miss: it is built once more.
    """
    names, macros = tuple(kernels), tuple(defines)
    refused = ""
    for path, level in prebuilt.find(_prebuilt_key(*_inputs(sources, unit, names, flavour=flavour, sanitize=sanitize, defines=macros))):
        try:
            return CpuBuild(_open(path), f"prebuilt {level}")
        except OSError as problem:
            refused = f"; the prebuilt library cannot be loaded: {problem}"
    for last in (False, True):
        try:
            path = build_cpu(sources, unit, names, flavour=flavour, sanitize=sanitize, defines=macros)
        except BackendUnavailableError as error:
            raise BackendUnavailableError(f"{error}{refused}") from None
        try:
            return CpuBuild(_open(path), _compiled_by())
        except OSError as problem:
            cache.discard(path)
            if last:
                hint = "if the cache folder forbids it, name another in XDG_CACHE_HOME"
                raise KernelError(f"the compiled kernels cannot be loaded ({problem}); {hint}") from problem
    raise AssertionError("the second attempt returns or raises")


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.npu_error.restype = ctypes.c_char_p
    return library


def _compiled_by() -> str:
    command, version = compiler()
    number = re.search(r"(?:gcc|clang) version (\S+)", version)
    return f"compiled, {Path(command[0]).name}{f' {number[1]}' if number else ''} -march={NATIVE}"


def _inputs(
    sources: Mapping[str, str], unit: str, kernels: Iterable[str], *,
    flavour: Flavour = "flat", sanitize: str = "", defines: Iterable[str] = (),
) -> tuple[list[str], dict[str, str]]:  # fmt: skip
    """What every build of these kernels is made from: flags, and file name -> text."""
    flags = [
        *FLAGS,
        "-O3" if flavour == "flat" else "-O1" if sanitize else "-O2",
        *(["-DCUEMU_FLAT"] if flavour == "flat" else []),
        *([f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined", "-g1"] if sanitize else []),
        *(f"-D{define}" for define in defines),
    ]
    exports = "".join(f"NPU_EXPORT({name})\n" for name in kernels)
    text = f'#include "cuda_on_cpu.h"\n{unit}\n#include "launch.h"\n{exports}'
    return flags, {**cpu_headers(), **sources, "unit.cpp": text}


def _machine_flags(version: str, level: str) -> list[str]:
    gcc_x86 = "gcc version" in version and "x86_64" in version
    return [f"-march={level}", *(["-mtls-dialect=gnu2"] if gcc_x86 else [])]


def _texts(files: Mapping[str, str]) -> list[str]:
    return [text for item in sorted(files.items()) for text in item]


def _prebuilt_key(flags: list[str], files: Mapping[str, str]) -> str:
    return cache.digest(*flags, *_texts(files))


def _compile(command: list[str], flags: list[str], files: Mapping[str, str]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="gpu-npu-build-") as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        line = [*command, *flags, f"-ffile-prefix-map={folder}=.", "unit.cpp", "-o", "kernels.so"]
        run = subprocess.run(line, capture_output=True, text=True, check=False, cwd=folder)
        if run.returncode:
            raise KernelError(f"the kernels do not compile ({shlex.join(command)}):\n{run.stderr[:8000]}")
        return Path(folder, "kernels.so").read_bytes()
