"""The CPU builds of the kernels: one shared library of the translation unit, by $CXX or g++, or out of the wheel.

`flat` is the CPU backend (one lane, plain loops), `emulated` runs 32-lane warps for tests and sanitizers; see
kernels/cpu/cuda_on_cpu.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shlex
import struct
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from gpu_npu.backends.kernels import folder as kernels_folder
from gpu_npu.backends.kernels import read
from gpu_npu.backends.toolchain import cache, prebuilt
from gpu_npu.backends.toolchain.cache import Problems
from gpu_npu.backends.toolchain.compiler import COMPILE_SECONDS, WAYS_OUT, compiler, run
from gpu_npu.backends.toolchain.private import Folder, shown
from gpu_npu.errors import BackendUnavailableError, KernelError

Flavour = Literal["flat", "emulated"]

# Contraction would fuse a*b+c into one rounding; nothing here may enable fast-math. Dynamic TLS: __shared__ arrays are
# thread_local and too large for the static TLS block of a library that is opened late.
FLAGS = ("-std=c++20", "-ffp-contract=off", "-fno-fast-math", "-fPIC", "-shared", "-pthread",
         "-fvisibility=hidden", "-fno-extern-tls-init", "-Wall", "-Wextra", "-Wno-attributes", "-Wno-unknown-pragmas",
         "-Wno-unused-function")  # fmt: skip
NATIVE = "native"
"""The level (of -march) that stands for the CPU at hand; prebuilt.LEVELS are the others."""
SUFFIX, OUTPUT = ".so", "kernels.so"


class CpuBuild(NamedTuple):
    """A loaded library and where it is from: "prebuilt x86-64-v3" or "compiled, g++ 12.2.0 -march=native"."""

    library: ctypes.CDLL
    origin: str


def cpu_headers() -> dict[str, str]:
    """File name -> text of kernels/cpu."""
    return {path.name: read(path) for path in sorted((kernels_folder() / "cpu").glob("*.h"))}


def prebuild_cpu(sources: Mapping[str, str], unit: str, kernels: Iterable[str], level: str, folder: Path) -> Path:
    """Build the flat library for a level of prebuilt.LEVELS into `folder`, under the name that `load_cpu` looks for."""
    command, version = compiler()
    flags, files = _inputs(sources, unit, kernels)
    with tempfile.TemporaryDirectory(prefix="gpu-npu-") as place, Folder.open(Path(place)) as workplace:
        data = _compile(workplace, command, flags + _machine_flags(version, level), files)
    path = folder / cache.name_of(_prebuilt_key(flags, files), prebuilt.suffix(level), data)
    path.write_bytes(data)
    return path


def load_cpu(
    sources: Mapping[str, str], unit: str, kernels: Iterable[str], *,
    flavour: Flavour = "flat", sanitize: str = "", defines: Iterable[str] = (),
) -> CpuBuild:  # fmt: skip
    """Open what was built in advance of these very sources, else what is in the cache, else build.

    `sources`: file name -> text, what `unit` (the translation unit's text) includes; `kernels`: the names to export;
    `sanitize`: "", "address,undefined" or "thread"; `defines`: "NAME=value". An entry of the cache that cannot be opened is
    built once more. BackendUnavailableError where there is no compiler, or no folder with room for what it makes;
    KernelError where the kernels do not compile, with the compiler's words, or cannot be loaded.
    """
    names = tuple(kernels)
    flags, files = _inputs(sources, unit, names, flavour=flavour, sanitize=sanitize, defines=defines)
    refused = Problems()
    for path, level in prebuilt.find(_prebuilt_key(flags, files)):
        try:
            return CpuBuild(_open(str(path), names), f"prebuilt {level}")
        except OSError as problem:
            refused.add(path, problem)
    try:
        return _cached(Build(*compiler(), flags, files, names, bool(sanitize)))
    except BackendUnavailableError as error:
        told = f"{error}; the prebuilt library cannot be loaded: {refused}" if str(refused) else str(error)
        raise BackendUnavailableError(told) from error


class Build(NamedTuple):
    """What a library is made from, and the kernels that it must export."""

    command: list[str]
    version: str
    flags: list[str]
    files: dict[str, str]
    kernels: tuple[str, ...]
    sanitized: bool

    @property
    def origin(self) -> str:
        number = re.search(r"(?:gcc|clang) version (\S+)", self.version)
        return f"compiled, {Path(self.command[0]).name}{f' {number[1]}' if number else ''} -march={NATIVE}"


def _cached(build: Build) -> CpuBuild:
    """A library out of the cache, else compiled in the first folder in which it can be compiled, kept and loaded."""
    flags = build.flags + _machine_flags(build.version, NATIVE)
    key = cache.digest(build.version, *build.command, *flags, *_texts(build.files))
    problems, data, kept = Problems(), b"", False
    for folder in cache.folders(problems):
        if name := cache.find(folder, key, SUFFIX):
            try:
                return _loaded(folder, name, build, problems)
            except OSError:
                folder.remove(name)
    for folder in cache.folders(problems):
        try:
            data = data or _compile(folder, build.command, flags, build.files)
            name = cache.store(folder, key, SUFFIX, data)
        except OSError as problem:
            problems.add(folder.path, problem)
            continue
        try:
            return _loaded(folder, name, build, problems)
        except OSError as problem:
            kept = True
            folder.remove(name)
            problems.add(folder.path, problem)
    if kept:
        raise KernelError(f"the compiled kernels cannot be loaded ({problems}): {cache.WAY_OUT}")
    raise BackendUnavailableError(f"there is no folder for compiled kernels ({problems}): {cache.WAY_OUT}")


def _loaded(folder: Folder, name: str, build: Build, problems: Problems) -> CpuBuild:
    """OSError where it cannot be loaded, or lacks a kernel."""
    # A sanitizer opens the library by this path when it reports, long after the folder was closed.
    place = str(folder.path) if build.sanitized else folder.place
    return CpuBuild(_open(f"{place}/{name}", build.kernels), build.origin + cache.note(folder, problems))


def _open(path: str, kernels: Iterable[str]) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(path)
    except OSError as problem:
        raise OSError(str(problem).removeprefix(f"{path}: ")) from problem
    for name in ("npu_error", "npu_launch", "npu_guard", *(f"npu_{what}_{kernel}" for kernel in kernels for what in ("body", "signature"))):
        if not hasattr(library, name):
            raise OSError(f"the library has no {name}")
    library.npu_error.restype = ctypes.c_char_p
    return library


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


def _compile(folder: Folder, command: list[str], flags: list[str], files: Mapping[str, str]) -> bytes:
    """The library's bytes. OSError where the folder has no room."""
    with folder.workshop(files) as shop:
        line = [*command, *flags, f"-ffile-prefix-map={os.path.realpath(shop.path)}=.", "unit.cpp", "-o", OUTPUT]
        status, words = run(line, COMPILE_SECONDS, shop.place)
        compiled_by = shown(shlex.join(command))
        if status:
            for code in (errno.ENOSPC, errno.EDQUOT):
                if os.strerror(code) in words:
                    raise OSError(code, os.strerror(code))
            raise KernelError(f"the kernels do not compile ({compiled_by}):\n{words[:8000]}")
        if OUTPUT not in shop.names() or not _is_whole(data := shop.read(OUTPUT)):
            raise KernelError(f"the C++ compiler {compiled_by} says that it compiled the kernels, and made no library: {WAYS_OUT}")
        return data


def _is_whole(data: bytes) -> bool:
    """Whether every segment of a library is in the file; loading one that was cut short would end the process."""
    if sys.platform != "linux":
        return bool(data)
    if data[:6] != b"\x7fELF\x02\x01":  # 64-bit, little endian
        return data[:4] == b"\x7fELF"
    try:
        (table,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
        segments = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    except struct.error:
        return False
    return all(offset + length <= len(data) for _, _, offset, _, _, length in segments)
