"""The compilers: every architecture without a GPU, and a cache that survives damage and company."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import TOY, program

from gpu_npu.backends import toolchain
from gpu_npu.backends.kernels import Program
from gpu_npu.backends.layout import STATE_DTYPE
from gpu_npu.backends.toolchain import cache
from gpu_npu.backends.toolchain.private import Folder
from gpu_npu.errors import BackendUnavailableError, KernelError

SOURCES = {"one.cu": 'extern "C" __global__ void one(unsigned* x) { x[blockIdx.x * blockDim.x + threadIdx.x] = 41 + 1; }\n'}
UNIT = '#include "one.cu"\n'
ROOMY = ("run_learning_bursts", "late_propagation", "visit_synapses", "pack_rows", "place_rows")
REGISTERS = {"run_bursts": 85, "propagation": 85} | dict.fromkeys(ROOMY, 128)
"""Of a thread: 3 blocks of 256 threads on a multiprocessor have 85 each, 2 have 128. All other kernels: 64, for 4."""
VALUE_BYTES = {"u1": 1, "u2": 2, "u4": 4, "u8": 8, "i4": 4, "i8": 8, "f4": 4}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that nobody else uses."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gpu-npu"


def needs_nvrtc() -> None:
    if importlib.util.find_spec("nvidia") is None and not os.environ.get("CI"):
        pytest.skip("NVRTC is not installed")


@pytest.mark.parametrize("arch", toolchain.ARCHITECTURES)
@pytest.mark.parametrize(("what", "struct"), [(Program.of_project(), STATE_DTYPE), (program(), TOY)], ids=["project", "toy"])
def test_every_architecture(what: Program, struct: np.dtype[Any], arch: int, capsys: pytest.CaptureFixture[str]) -> None:
    """All kernels compile, warn of nothing, spill nothing, and take arguments of the sizes that the launcher passes."""
    needs_nvrtc()
    cubin, log = toolchain.compile_cubin(what.sources, what.unit, arch)
    assert "warning" not in log.replace("ptxas info", "")
    found = toolchain.usage(log)
    assert set(found) == set(what.kernels)
    with capsys.disabled() if struct is STATE_DTYPE else nullcontext():  # a reader of the log wants those of the project
        print(f"\nsm_{arch}: " + ", ".join(f"{name} {use.registers}r {use.shared}B" for name, use in sorted(found.items())))
    for name, use in found.items():
        assert use.spill_stores == use.spill_loads == 0, name
        assert use.shared <= 48 * 1024, name
        assert use.registers * what.kernels[name].block <= 65536, name
        assert use.registers <= REGISTERS.get(name, 64), name
    sizes = toolchain.parameter_sizes(cubin)
    values = {**VALUE_BYTES, "state": struct.itemsize}
    for name, kernel in what.kernels.items():
        assert sizes[name] == tuple(8 if code[0] == "*" else values[code] for code in kernel.arguments), name


def test_nvrtc_says_what_does_not_compile() -> None:
    needs_nvrtc()
    with pytest.raises(KernelError, match=r'one.cu\(1\): error: identifier "nothing" is undefined'):
        toolchain.compile_cubin({"one.cu": SOURCES["one.cu"].replace("41", "nothing")}, UNIT, 80)


def test_cubins_come_from_the_cache(own_cache: Path) -> None:
    needs_nvrtc()
    first = toolchain.compile_cubin(SOURCES, UNIT, 80)
    (entry,) = own_cache.iterdir()
    assert toolchain.compile_cubin(SOURCES, UNIT, 80) == first
    entry.write_bytes(entry.read_bytes()[:-100])
    assert toolchain.compile_cubin(SOURCES, UNIT, 80)[0] == first[0]
    assert len(list(own_cache.iterdir())) == 1
    toolchain.compile_cubin(SOURCES, UNIT, 86)
    assert len(list(own_cache.iterdir())) == 2


def build(text: str = SOURCES["one.cu"], **options: Any) -> toolchain.CpuBuild:
    return toolchain.load_cpu({"one.cu": text}, UNIT, ["one"], **options)


def test_a_build_is_made_once_and_again_when_anything_changes(own_cache: Path) -> None:
    build()
    (path,) = own_cache.iterdir()
    made = path.stat().st_mtime_ns
    build()
    assert path.stat().st_mtime_ns == made
    build(SOURCES["one.cu"].replace("41", "40"))
    build(flavour="emulated")
    build(defines=("UNUSED=1",))
    assert len(list(own_cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:500] + b"!!!!" + data[504:]])
def test_a_damaged_build_is_a_miss(own_cache: Path, damage: Callable[[bytes], bytes]) -> None:
    build()
    (path,) = own_cache.iterdir()
    data = path.read_bytes()
    path.unlink()  # a new file: nobody has this one open
    path.write_bytes(damage(data))
    assert build().library.npu_launch(0, None) == 0
    assert [path.read_bytes() for path in own_cache.iterdir()] == [data]


def test_a_build_that_cannot_be_opened_is_built_again(own_cache: Path) -> None:
    """Sound by its checksum, but not a library for this machine."""
    build()
    (path,) = own_cache.iterdir()
    path.unlink()
    with Folder.open(own_cache) as folder:
        cache.store(folder, path.name.split("-")[0], ".so", b"another machine's library")
    assert build().library.npu_launch(0, None) == 0
    assert [found.name for found in own_cache.iterdir()] == [path.name]


def test_several_processes_build_at_once(own_cache: Path) -> None:
    code = f"from gpu_npu.backends import toolchain; print(toolchain.load_cpu({SOURCES!r}, {UNIT!r}, ['one']).library.npu_launch(0, None))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["0"] * 3
    assert len(list(own_cache.iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="users and home folders of POSIX")
def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number: a private temporary folder serves."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 17)
    assert "for this process alone (the user's cache folder: Could not determine home directory.)" in build().origin


def test_nowhere_to_write(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(cache, "_temporary", refuse)
    own_cache.write_text("in the way")
    told = f"{own_cache}: File exists; the folder for temporary files: No usable temporary directory found"
    with pytest.raises(BackendUnavailableError, match=rf"no folder for compiled kernels \({told}\): .* in XDG_CACHE_HOME or TMPDIR"):
        build()
    assert cache.where().startswith(f"none ({told})")


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendUnavailableError, match=r"'no-such-compiler' is not a program on the PATH: install g\+\+"):
        build()


def test_the_compiler_says_what_does_not_compile(own_cache: Path) -> None:
    with pytest.raises(KernelError, match=r"one\.cu:1:.*error: .nothing. was not declared"):
        build(SOURCES["one.cu"].replace("41", "nothing"))
    assert not list(own_cache.iterdir())


def test_no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError, match=r"no libnvrtc.so.99 was found: .* install .*, or set CUDA_PATH to a toolkit"):
        toolchain.compile_cubin(SOURCES, UNIT, 80, majors=(99,))
