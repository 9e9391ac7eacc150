"""What works on this machine, and what to do where something does not. Every backend is tried on a small network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_npu.backends import kernels
from gpu_npu.backends.toolchain import cache, compiler, nvrtc
from gpu_npu.backends.toolchain.driver import ask as ask_driver
from gpu_npu.connectome import STATE_FIELDS, Area, Connectome
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.errors import BackendUnavailableError, NpuError
from gpu_npu.extras import install_command, is_complete
from gpu_npu.limits import cpu_workers
from gpu_npu.npu import NPU
from gpu_npu.objects import OneLine

BACKENDS = ("cuda", "cpu", "reference")
"""In the order in which "auto" tries them."""
BURSTS = 20
NEVER = "never run on a GPU"
CUDA_MAJORS = (12, 13)
"""CUDA versions that there is an extra for."""
INSTALLERS = {
    "apt-get": "apt-get install g++",
    "dnf": "dnf install gcc-c++",
    "zypper": "zypper install gcc-c++",
    "pacman": "pacman -S gcc",
    "apk": "apk add g++",
    "brew": "brew install gcc",
}
"""Package manager -> the command that brings a C++ compiler."""


@dataclass(frozen=True, repr=False)
class Check(OneLine):
    """A backend: `status` is "works", "missing" (it cannot run here), or "broken" (it should, and does not).

    detail: what it runs on, or what is wrong; fix: a command that helps, where there is one.
    """

    backend: str
    status: str
    detail: str
    fix: str | None = None


@dataclass(frozen=True, repr=False)
class Validation(OneLine):
    """When the kernels of this version passed validation on a GPU last; device None: never."""

    device: str | None = None
    date: str | None = None
    commit: str | None = None


@dataclass(frozen=True, repr=False)
class Diagnosis(OneLine):
    """backends: in the order of BACKENDS. machine: label -> text. validation: of the present kernels."""

    backends: tuple[Check, ...]
    machine: dict[str, str]
    kernel_digest: str
    validation: Validation

    @property
    def best(self) -> Check:
        """What "auto" would take if it fits: the first backend that is not missing."""
        return next(check for check in self.backends if check.status != "missing")

    @property
    def healthy(self) -> bool:
        """Whether that one works."""
        return self.best.status == "works"


def examine(progress: Callable[[str], object] = lambda what: None) -> Diagnosis:
    """Try everything. `progress` is told what is tried now: kernels may have to be compiled first."""
    driver = cuda_driver()
    expected = _outcome("reference")
    checks = []
    for backend in BACKENDS:
        progress(f"trying {backend}")
        checks.append(_try(backend, expected, driver))
    progress("looking at the machine")
    return Diagnosis(tuple(checks), _machine(driver), kernel_digest(), last_validation())


def small_network() -> Connectome:
    """300 neurons with most of what the semantics have: inhibition, leak, refractory periods, draws, limits, a power area."""
    rng = np.random.default_rng(7)
    areas = {0: Area("cortex"), 1: Area("power", power=True), 2: Area("divided", psp_uniform=False), 3: Area("driven", mp_driven_psp=True)}
    return fixed_out_degree(
        300,
        30,
        seed=7,
        weight=(1, 9),
        psp=(1, 3),
        areas=areas,
        threshold=rng.integers(2, 12, 300),
        leak_coefficient=rng.uniform(0, 0.3, 300),
        refractory_period=rng.integers(0, 3, 300),
        excitability=np.where(rng.random(300) < 0.3, 0.5, 1.0),
        consecutive_fire_limit=np.where(rng.random(300) < 0.3, 2, 0),
        snooze_period=2,
        cortical_area=np.arange(300) % 4,
    )


def _outcome(backend: str) -> tuple[str, bytes]:
    """Digest of a short run, and the state it leaves."""
    with NPU.from_connectome(small_network(), backend=backend) as npu:
        npu.inject(np.arange(40), 3.5)
        digest = npu.run(BURSTS, digest=True).digest
        return digest, b"".join(npu.get_parameter(field).tobytes() for field in STATE_FIELDS)


def _try(backend: str, expected: tuple[str, bytes], driver: CudaDriver | None) -> Check:
    try:
        with NPU(1, backend=backend) as npu:
            description = npu.backend_reason.partition(": ")[2]
        outcome = _outcome(backend)
    except BackendUnavailableError as error:
        return Check(backend, "missing", _line(error), _fix(backend, driver))
    except (NpuError, MemoryError, OSError) as error:
        return Check(backend, "broken", _line(error))
    if outcome != expected:
        what = "fires other neurons than" if outcome[0] != expected[0] else "leaves another state than"
        return Check(backend, "broken", f"{description}; {what} the reference in {BURSTS} bursts of a small network")
    return Check(backend, "works", description)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _fix(backend: str, driver: CudaDriver | None) -> str | None:
    """The command that brings what is missing."""
    if backend == "cpu":
        return next((command for tool, command in INSTALLERS.items() if shutil.which(tool)), None)
    if driver is None or not driver.gpus:
        return None  # a matter of the machine, not of a command
    major = max((major for major in CUDA_MAJORS if major <= driver.cuda[0]), default=None)
    return None if major is None or is_complete(f"cuda{major}") else install_command(f"cuda{major}")


# -- the machine ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CudaDriver:
    """What the NVIDIA driver says: its release ("580.65.06", where it tells), the CUDA version it supports, its GPUs."""

    release: str
    cuda: tuple[int, int]
    gpus: tuple[str, ...]


def cuda_driver() -> CudaDriver | None:
    """The NVIDIA driver of this machine, asked directly, without CUDA's libraries; None where there is none."""
    answer = ask_driver()
    return None if answer is None else CudaDriver(_driver_release(), *answer)


def _driver_release() -> str:
    try:
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
    except OSError:
        return ""
    return next((word for word in words if word[0].isdigit() and word.count(".") >= 1), "")


def _machine(driver: CudaDriver | None) -> dict[str, str]:
    release, (workers, limited) = importlib.metadata.version("numpy"), cpu_workers()
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}, NumPy {release}",
        "workers": f"{workers}{limited}",
        "gpu": ", ".join(driver.gpus) or "none" if driver else "none",
        "driver": f"{driver.release or 'NVIDIA'}, for CUDA {driver.cuda[0]}.{driver.cuda[1]}" if driver else "no NVIDIA driver",
        "cupy": _cupy(),
        "nvrtc": _told(_nvrtc),
        "compiler": _told(compiler.about),
        "cache": cache.where(),
    }


def _told(question: Callable[[], str]) -> str:
    try:
        return question()
    except (NpuError, OSError) as error:
        return f"none: {_line(error)}"


def _cupy() -> str:
    """Installed distributions named cupy..., without importing any."""
    names = {str(found.metadata["Name"]).lower(): found.version for found in importlib.metadata.distributions() if found.metadata["Name"]}
    return ", ".join(f"{name} {version}" for name, version in sorted(names.items()) if name.startswith("cupy")) or "none"


def _nvrtc() -> str:
    path, version = nvrtc.found()
    return f"{path}, CUDA {version}"


# -- validation ----------------------------------------------------------------------------------------------------
def kernel_digest() -> str:
    """SHA-256 (hex) of everything that the compiler is given of the kernels: names and texts, by name."""
    sha = hashlib.sha256()
    for name, text in sorted(kernels.sources().items()):
        for part in (name.encode(), text.encode()):
            sha.update(len(part).to_bytes(8, "little"))
            sha.update(part)
    return sha.hexdigest()


def last_validation(folders: tuple[Path, ...] | None = None) -> Validation:
    """The latest passed validation of the present kernels, from files validate-*.json.

    They lie in the package's `results`, or in `profiling/results` of a checkout, and hold device, date (ISO 8601), commit,
    kernel_digest and passed. One of other kernels, one that did not pass and one that cannot be read count for nothing.
    """
    package = Path(__file__).resolve().parent
    digest = kernel_digest()
    passed: list[Validation] = []
    for folder in folders or (package / "results", package.parent / "profiling" / "results"):
        for path in sorted(folder.glob("validate-*.json")):
            try:
                told: Any = json.loads(path.read_text(encoding="utf-8"))
                if told["passed"] is True and told["kernel_digest"] == digest:
                    passed.append(Validation(str(told["device"]), str(told["date"]), str(told["commit"])))
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return max(passed, key=lambda one: one.date or "", default=Validation())
