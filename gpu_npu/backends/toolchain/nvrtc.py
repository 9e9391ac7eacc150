"""Cubins of the kernels by NVRTC, with no GPU and no CuPy: the same call for the compile check and at run time."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpu_npu.backends.toolchain import cache, driver
from gpu_npu.errors import BackendUnavailableError, KernelError
from gpu_npu.extras import install_command

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities the kernels are written for."""
MAJORS = (13, 12)
"""CUDA versions whose NVRTC is looked for, the preferred one first."""
NO_BITS = 8
"""Kind of an ELF section that takes no room in the file."""
OPTIONS = ("-std=c++17", "-ftz=false", "-fmad=false", "-prec-div=true", "-prec-sqrt=true", "--ptxas-options=-v")


@dataclass(frozen=True)
class KernelUsage:
    """What ptxas says of a kernel: registers a thread, bytes of stack, spills (bytes), static shared memory (bytes)."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


def compile_cubin(sources: Mapping[str, str], unit: str, arch: int, *, majors: Iterable[int] = MAJORS) -> tuple[bytes, str]:
    """(cubin, compiler's log) of the translation unit for compute capability `arch` (75 means 7.5), cached.

    `majors`: the CUDA versions allowed, best first (a driver loads cubins of its own version and of older ones).
    Raises BackendUnavailableError where NVRTC is not installed, KernelError where the kernels do not compile.
    """
    library = _library(tuple(majors))
    options = [*OPTIONS, f"-arch=sm_{arch}"]
    texts = [text for item in sorted(sources.items()) for text in item]
    key = cache.digest(f"nvrtc {_version(library)} {_build_id(library)}", *options, unit, *texts)
    data = cache.kept(key, ".cubin", lambda: _compile(library, sources, unit, options))
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :].decode(errors="replace")


def usage(log: str) -> dict[str, KernelUsage]:
    """Kernel -> KernelUsage, from the log of `compile_cubin`."""
    found: dict[str, KernelUsage] = {}
    kernel, stack = "", (0, 0, 0)
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = match[1]
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack = (int(match[1]), int(match[2]), int(match[3]))
        elif kernel and (match := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            found[kernel] = KernelUsage(int(match[1]), *stack, int(shared[1]) if shared else 0)
            kernel = ""
    return found


def parameter_sizes(cubin: bytes) -> dict[str, tuple[int, ...]]:
    """Kernel -> bytes of each of its parameters, in order, read from the cubin (ELF sections `.nv.info.<kernel>`).

    An attribute there is a format byte, a code byte and 16 bits that are its value or, in format 4, the length of what
    follows. Code 0x17 is a parameter: u32 index, u16 ordinal, u16 offset, u32 whose upper 14 bits are its size.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for name, section in _sections(cubin):
        if not name.startswith(".nv.info."):
            continue
        parameters: dict[int, int] = {}
        at = 0
        while at + 4 <= len(section):
            form, code, value = struct.unpack_from("<BBH", section, at)
            at += 4
            if form == 4:
                if code == 0x17:
                    _, ordinal, _, packed = struct.unpack_from("<IHHI", section, at)
                    parameters[ordinal] = packed >> 18
                at += value
        sizes[name.removeprefix(".nv.info.")] = tuple(parameters[i] for i in sorted(parameters))
    return sizes


def _sections(elf: bytes) -> list[tuple[str, bytes]]:
    if elf[:5] != b"\x7fELF\x02":
        raise KernelError("not a cubin: no 64-bit ELF header")
    (table,) = struct.unpack_from("<Q", elf, 40)
    entry_size, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * entry_size) for i in range(count)]
    strings = headers[names][4]
    found = []
    for name, kind, _, _, offset, size in headers:
        end = elf.index(b"\0", strings + name)
        found.append((elf[strings + name : end].decode(), b"" if kind == NO_BITS else elf[offset : offset + size]))
    return found


# -- the library ---------------------------------------------------------------------------------------------------


def _folders(major: int) -> list[Path]:
    """Where NVRTC of this CUDA version may lie: NVIDIA's wheels, then a toolkit."""
    spec = importlib.util.find_spec("nvidia")
    wheels = list(spec.submodule_search_locations or []) if spec else []
    inside = f"cu{major}" if major >= 13 else "cuda_nvrtc"
    toolkits = [os.environ.get("CUDA_PATH") or "/usr/local/cuda", f"/usr/local/cuda-{major}"]
    return [Path(wheel, inside, "lib") for wheel in wheels] + [Path(toolkit, "lib64") for toolkit in toolkits]


@functools.cache
def _library(majors: tuple[int, ...]) -> ctypes.CDLL:
    problems = cache.Problems()
    for major in majors:
        name = f"libnvrtc.so.{major}"
        for folder in _folders(major):
            if os.path.exists(folder / name):
                try:
                    for builtins in sorted(folder.glob("libnvrtc-builtins.so.*")):
                        ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)  # NVRTC 13.0 does not find it by itself
                    return ctypes.CDLL(str(folder / name))
                except OSError as problem:
                    problems.add(folder / name, problem)
        with suppress(OSError):
            return ctypes.CDLL(name)
    wanted = " or ".join(f"libnvrtc.so.{major}" for major in majors)
    way_out = f"{install_command(driver.extra() or f'cuda{MAJORS[0]}')}, or set CUDA_PATH to a toolkit"
    refused = f" ({problems})" if str(problems) else ""
    raise BackendUnavailableError(f"compiling the CUDA kernels needs NVRTC and no {wanted} was found{refused}: {way_out}")


def found(majors: Iterable[int] = MAJORS) -> tuple[str, str]:
    """(path, CUDA version) of the NVRTC that is used; BackendUnavailableError where there is none."""
    library = _library(tuple(majors))
    return library._name, _version(library)


def _version(library: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return f"{major.value}.{minor.value}"


def _build_id(library: ctypes.CDLL) -> str:
    """Tells two builds of one version apart: the library's size."""
    try:
        return str(os.path.getsize(library._name))
    except OSError:  # found by the loader, under its name alone
        return library._name


def _check(library: ctypes.CDLL, code: int, call: str) -> None:
    if code:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise KernelError(f"{call}: {library.nvrtcGetErrorString(code).decode()}")


def _compile(library: ctypes.CDLL, sources: Mapping[str, str], unit: str, options: list[str]) -> bytes:
    """Length of the cubin (u64), cubin, log."""
    names = (ctypes.c_char_p * len(sources))(*(name.encode() for name in sources))
    texts = (ctypes.c_char_p * len(sources))(*(text.encode() for text in sources.values()))
    program = ctypes.c_void_p()
    code = library.nvrtcCreateProgram(ctypes.byref(program), unit.encode(), b"kernels.cu", len(sources), texts, names)
    _check(library, code, "nvrtcCreateProgram")
    try:
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        code = library.nvrtcCompileProgram(program, len(options), arguments)
        log = _get(library, program, "ProgramLog").rstrip(b"\0")
        if code:
            raise KernelError(f"the kernels do not compile with NVRTC ({options[-1]}):\n{log.decode(errors='replace')[:8000]}")
        cubin = _get(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return len(cubin).to_bytes(8, "little") + cubin + log


def _get(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer), f"nvrtcGet{what}")
    return buffer.raw
