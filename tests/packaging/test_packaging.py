"""What is shipped: the wheel as it is installed, the libraries in it, the Dockerfile, and `make run` on bare machines."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_container import stages
from conftest import cpu_backend
from golden_cases import CASES, load_case, run_case

from gpu_npu import BackendUnavailableError
from gpu_npu.backends import toolchain
from gpu_npu.backends.kernels import Program
from gpu_npu.backends.toolchain import cache, driver, prebuilt

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = Program.of_project()
BURSTS = "50"
V2_WORDS = "fpu vme sse sse2 cx16 lahf_lm pni popcnt sse4_1 sse4_2 ssse3"
V3_WORDS = f"{V2_WORDS} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
LINUX = pytest.mark.skipif(not prebuilt.possible(), reason="the wheel with prebuilt libraries is for Linux x86-64")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None and not os.environ.get("CI"), reason="building a wheel needs g++")


def run(*command: str | Path, expect: int = 0, **options: Any) -> str:
    """Output and errors of a command; another exit status than expected is a failure that shows them."""
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300, **options
    )
    assert done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Level -> the prebuilt library, as the wheel has it."""
    folder = tmp_path_factory.mktemp("prebuilt")
    return {level: toolchain.prebuild_cpu(PROJECT.sources, PROJECT.unit, PROJECT.kernels, level, folder) for level in prebuilt.LEVELS}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of prebuilt libraries of this installation: empty."""
    (tmp_path / "shipped").mkdir()
    monkeypatch.setattr(prebuilt, "folder", lambda: tmp_path / "shipped")
    return tmp_path / "shipped"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make wheel` makes."""
    folder, tools = tmp_path_factory.mktemp("wheel"), Path(sys.executable).parent
    if not (tools / "auditwheel").exists() and not os.environ.get("CI"):
        pytest.skip("hatchling and auditwheel are not installed")
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    enable = {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"}
    run(tools / "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT, env={**environment, **enable})
    run(tools / "auditwheel", "repair", "--wheel-dir", folder, *folder.glob("*-linux_x86_64.whl"), env=environment)
    (path,) = folder.glob("*-manylinux_*.whl")
    return path


# -- libraries built in advance ------------------------------------------------------------------------------------
@LINUX
@pytest.mark.parametrize("level", prebuilt.LEVELS)
def test_golden_cases_on_each_level(level: str, libraries: dict[str, Path], shipped: Path, no_compiler: None) -> None:
    if level not in prebuilt.runnable():
        pytest.skip(f"this CPU does not run {level}")
    shutil.copy(libraries[level], shipped)
    for name in CASES:
        backend = cpu_backend()
        assert backend.description.endswith(f", prebuilt {level}")
        run_case(load_case(name), backend)
        backend.close()


@LINUX
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump shows the instructions")
def test_instructions_are_those_of_the_level(libraries: dict[str, Path]) -> None:
    """v2: nothing of AVX. v3: of AVX, but no fused multiply-add, which would round once where the semantics round twice."""
    code = {level: run("objdump", "-d", "--no-show-raw-insn", path) for level, path in libraries.items()}
    assert not re.search(r"%[yz]mm|\tv[a-z]+ ", code["x86-64-v2"])
    assert "%ymm" in code["x86-64-v3"]
    assert not re.search(r"%zmm|\tvfn?m(add|sub)", code["x86-64-v3"])


@pytest.mark.parametrize(
    ("cpus", "levels"),
    [
        ([V3_WORDS], ["x86-64-v3", "x86-64-v2"]),
        ([V3_WORDS + " avx512f"], ["x86-64-v3", "x86-64-v2"]),
        ([V3_WORDS.replace(" avx2", "")], ["x86-64-v2"]),
        ([V3_WORDS.replace(" xsave", "")], ["x86-64-v2"]),  # switched off by the operating system
        ([V3_WORDS, V2_WORDS], ["x86-64-v2"]),  # a thread may move to the lesser core
        ([V2_WORDS.replace(" popcnt", "")], []),
        ([], []),
    ],
)
def test_levels_by_the_features_of_the_cpu(cpus: list[str], levels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("".join(f"processor\t: {i}\nflags\t\t: {words}\nbugs\t\t: avx2\n\n" for i, words in enumerate(cpus)))
    monkeypatch.setattr(prebuilt, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(prebuilt, "possible", lambda: True)
    assert prebuilt.runnable() == levels
    monkeypatch.setattr(prebuilt, "CPUINFO", tmp_path / "nothing")
    assert prebuilt.runnable() == []
    monkeypatch.setattr(prebuilt, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(prebuilt, "possible", lambda: False)
    assert prebuilt.runnable() == []


@LINUX
def test_the_best_level_that_runs_is_taken(
    libraries: dict[str, Path], shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in libraries.values():
        shutil.copy(path, shipped)
    assert f", prebuilt {prebuilt.runnable()[0]}" in cpu_backend().description
    (tmp_path / "cpuinfo").write_text(f"flags : {V2_WORDS}\n")
    monkeypatch.setattr(prebuilt, "CPUINFO", tmp_path / "cpuinfo")
    assert ", prebuilt x86-64-v2" in cpu_backend().description
    (tmp_path / "cpuinfo").write_text("flags : fpu\n")
    assert re.search(r", compiled, g\+\+ [0-9.]+ -march=native$", cpu_backend().description)


@LINUX
def test_a_library_of_other_sources_is_never_taken(libraries: dict[str, Path], shipped: Path, no_compiler: None) -> None:
    for path in libraries.values():
        shutil.copy(path, shipped)
    toolchain.load_cpu(PROJECT.sources, PROJECT.unit, PROJECT.kernels)
    changed = replace(PROJECT, sources={**PROJECT.sources, "dynamics.cu": PROJECT.sources["dynamics.cu"] + "\n"})
    other: list[dict[str, Any]] = [{"sources": changed.sources}, {"kernels": list(PROJECT.kernels)[1:]}, {"unit": PROJECT.unit + "\n"}]
    other += [{"flavour": "emulated"}, {"defines": ("UNUSED=1",)}]
    for change in other:
        arguments = {"sources": PROJECT.sources, "unit": PROJECT.unit, "kernels": PROJECT.kernels, **change}
        with pytest.raises(BackendUnavailableError, match=r"install g\+\+.*or install a wheel that brings the kernels compiled"):
            toolchain.load_cpu(**arguments)


@LINUX
@pytest.mark.parametrize("damage", [lambda data: data[:1000], lambda data: data[:-8], lambda data: data[:9000] + b"!!" + data[9002:]])
def test_a_damaged_library_is_not_there(damage: Any, libraries: dict[str, Path], shipped: Path) -> None:
    for path in libraries.values():
        (shipped / path.name).write_bytes(damage(path.read_bytes()))
    assert ", compiled, " in cpu_backend().description


@LINUX
def test_a_library_that_cannot_be_opened(libraries: dict[str, Path], shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compiled instead, and where that cannot be, what was wrong is told."""
    data = b"made for another C library"
    for level, path in libraries.items():
        (shipped / cache.name_of(path.name.split("-")[0], prebuilt.suffix(level), data)).write_bytes(data)
    assert ", compiled, " in cpu_backend().description
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendUnavailableError, match=r"install g\+\+.*; the prebuilt library cannot be loaded: .*\.so"):
        cpu_backend()


# -- the wheel -----------------------------------------------------------------------------------------------------
@LINUX
def test_the_wheel_is_small_and_holds_what_it_should(wheel: Path) -> None:
    assert wheel.stat().st_size < 5_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        metadata = next(archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gpu_npu"}
    ours = {name for name in names if name.startswith("gpu_npu/") and not name.startswith("gpu_npu/prebuilt/")}
    kernels = {f"gpu_npu/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "kernels").rglob("*.*")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gpu_npu").rglob("*.*") if path.suffix in (".py", ".typed")}
    results = {f"gpu_npu/results/{path.name}" for path in (ROOT / "profiling" / "results").glob("validate-*.json")}
    assert ours == (kernels | modules | results) - {"gpu_npu/backends/toolchain/wheel_hook.py"}
    assert sorted(name.split(".", 1)[1] for name in names if name.startswith("gpu_npu/prebuilt/")) == ["x86-64-v2.so", "x86-64-v3.so"]
    needed = [line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert sorted(re.split(r"[<>=]", requirement)[0] for requirement in needed) == ["click", "numpy", "rich"]


@LINUX
def test_the_wheel_asks_for_the_glibc_that_the_readme_says(wheel: Path) -> None:
    asked = re.search(r"-manylinux_(\d+)_(\d+)_x86_64\.whl$", wheel.name)
    told = re.search(r"glibc (\d+)\.(\d+)", README)
    assert asked
    assert told
    assert tuple(map(int, asked.groups())) <= tuple(map(int, told.groups()))


@LINUX
def test_as_installed(wheel: Path, tmp_path: Path) -> None:
    """An empty environment outside the checkout, no compiler, and a home folder in which nothing can be written."""
    venv.create(tmp_path / "env", with_pip=True)
    bin_folder = tmp_path / "env" / "bin"
    run(bin_folder / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", wheel)
    bare = {"PATH": str(bin_folder), "HOME": "/proc", "LANG": "C.UTF-8", "COLUMNS": "300"}

    def example(backend: str, **more: str) -> tuple[str, str]:
        file = tmp_path / f"{backend}.npz"
        command = ["run", "seed", "--bursts", BURSTS, "--backend", backend, "--record", str(file)]
        table = run(bin_folder / "gpu-npu", *command, cwd=tmp_path, env={**bare, **more})
        with np.load(file) as recorded:
            return table, str(recorded["digest"])

    table, digest = example("cpu")
    assert f"prebuilt {prebuilt.runnable()[0]}" in table
    assert example("reference")[1] == digest
    assert run(sys.executable, "-m", "gpu_npu", "run", "seed", "--bursts", BURSTS, "--json", cwd=ROOT).count(digest) == 1
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run(bin_folder / "gpu-npu", "run", "seed", "--bursts", "1", "--quiet", cwd=tmp_path, env=bare)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3, "the first burst of the command"
    where = run(bin_folder / "python", "-c", "import gpu_npu; print(gpu_npu.__file__)", cwd=tmp_path, env=bare)
    assert where.startswith(str(tmp_path / "env"))


# -- without a compiler --------------------------------------------------------------------------------------------
@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH with make and Python, and no compiler."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in ("make", "sh", "touch", "rm"):
        (folder / tool).symlink_to(shutil.which(tool) or pytest.fail(f"{tool} is missing"))
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python3").chmod(0o755)
    return str(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="make")
def test_make_run_without_a_compiler(bare_path: str, tmp_path: Path) -> None:
    """From a clone: the reference runs, and what a compiler or the wheel would give is told."""
    clone = tmp_path / "clone"
    leave_out = shutil.ignore_patterns(".*", "__pycache__", "tests", "dist")
    shutil.copytree(ROOT, clone, ignore=leave_out)
    environment = {"PATH": bare_path, "HOME": str(tmp_path), "LANG": "C.UTF-8", "COLUMNS": "500"}
    table = run("make", "run", "EXTRAS=", cwd=clone, env=environment)
    assert "reference (auto took the last resort" in table
    assert "not cpu: the CPU kernels need a C++20 compiler and 'g++' is not a program on the PATH: install g++" in table
    assert "or install a wheel that brings the kernels compiled (`make wheel` in a clone makes it, for Linux x86-64)" in table


def test_the_reference_needs_nothing_of_posix() -> None:
    script = """
import os, sys
import numpy
class Block:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
for name in ("sched_getaffinity", "sysconf", "getuid", "geteuid", "fork", "register_at_fork", "uname", "mkfifo"):
    delattr(os, name) if hasattr(os, name) else None
import gpu_npu, gpu_npu.io, gpu_npu.backends.select, gpu_npu.connectome.generators
with gpu_npu.NPU.from_connectome(gpu_npu.connectome.generators.seed_example(), backend="reference") as npu:
    print(npu.run(5, digest=True).digest)
from gpu_npu.cli import main
main(["run", "seed", "--bursts", "5", "--backend", "reference", "--json"])
"""
    out = run(sys.executable, "-c", script, cwd=ROOT)
    assert out.count(out.split()[0]) == 2


# -- the extra for a GPU -------------------------------------------------------------------------------------------
class Driver:
    """libcuda of a machine with some GPUs."""

    def __init__(self, version: int, gpus: int, start: int = 0) -> None:
        self._version, self._gpus, self._start = version, gpus, start

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self._start

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = f"GPU {device.value}".encode()
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self._version
        return 0


@pytest.mark.parametrize(
    ("library", "extra"),
    [
        (Driver(14000, 1), "cuda13"),
        (Driver(13010, 1), "cuda13"),
        (Driver(13000, 8), "cuda13"),
        (Driver(12090, 1), "cuda12"),
        (Driver(12000, 1), "cuda12"),
        (Driver(11080, 1), ""),
        (Driver(13000, 0), ""),
        (Driver(13000, 1, start=100), ""),  # CUDA_ERROR_NO_DEVICE
        (None, ""),
    ],
)
def test_the_extra_that_the_driver_supports(library: Driver | None, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Driver:
        assert "cuda" in name
        if library is None:
            raise OSError(f"{name}: cannot open shared object file")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert driver.extra() == extra
    answer = driver.ask()
    assert (answer is None) == (library is None)
    if extra:
        assert answer is not None
        assert answer[1][0] == "GPU 0"


def test_make_asks_the_driver(tmp_path: Path) -> None:
    """`make -n run` shows which extra it would install; one that is named wins, none included."""
    (tmp_path / "python3").write_text("#!/bin/sh\necho cuda12\n")
    (tmp_path / "python3").chmod(0o755)
    dry = ["make", "-n", "run", f"PYTHON={tmp_path / 'python3'}", f"VENV={tmp_path / 'env'}"]
    assert '".[cuda12]"' in run(*dry, cwd=ROOT)
    assert '".[cuda13]"' in run(*dry, "EXTRAS=cuda13", cwd=ROOT)
    assert '"."' in run(*dry, "EXTRAS=", cwd=ROOT)
    assert '".[cuda13]"' in run(*dry, cwd=ROOT, env={**os.environ, "EXTRAS": "cuda13"})
    script = run(sys.executable, "-S", "-I", ROOT / "gpu_npu" / "backends" / "toolchain" / "driver.py", cwd=tmp_path)
    assert script.strip() in ("", "cuda12", "cuda13")


# -- the container -------------------------------------------------------------------------------------------------
def test_hadolint() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed")
    assert run(linter, "--no-color", ROOT / "Dockerfile") == ""


def test_stages_of_the_dockerfile() -> None:
    found = stages()
    assert list(found) == ["build", "runtime", "profile", ""]
    assert found[""].split() == ["FROM", "runtime"]
    assert found["profile"].startswith("FROM runtime AS profile\n")
    assert found["runtime"].startswith("FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04 AS runtime\n")
    assert not re.search(r"g\+\+|gcc|build-essential|make|devel|\bpip\b", found["runtime"])
    assert re.findall(r"^(USER|ENTRYPOINT) (.*)", found["runtime"], re.MULTILINE) == [("USER", "10001"), ("ENTRYPOINT", '["gpu-npu"]')]
    assert re.search(r'^HEALTHCHECK .*CMD \["gpu-npu", "doctor"\]$', found["runtime"], re.MULTILINE)
    assert re.findall(r"^USER (.*)", found["profile"], re.MULTILINE)[-1] == "10001"
