"""Options, fixtures and Hypothesis profiles that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from gpu_npu.backends.base import Platform
from gpu_npu.backends.devices.base import Device

BackendFactory = Callable[[], Platform]
DeviceFactory = Callable[[], Device]

settings.register_profile("default", max_examples=40, deadline=None, derandomize=True, database=None)
settings.register_profile("long", max_examples=10_000, deadline=None, database=None, print_blob=True)
settings.load_profile("default")

EMULATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # id -> options of the emulated device, its tuning
    "emulated-32": ({"block": 32, "seed": 1}, {"heavy_row": 5}),
    "emulated-64-unpacked": ({"block": 64, "seed": 2, "cache_bytes": 1024}, {"propagation": "blocked", "packed": False, "heavy_row": 40}),
    "emulated-96-slices": ({"block": 96, "blocks": 5, "seed": 4, "shared": 512}, {"propagation": "slices", "heavy_row": 7}),
    "emulated-256-owned": ({"block": 256, "seed": 3}, {"propagation": "owned"}),
}
BACKENDS = ("reference", "cpu", *EMULATED, "cuda")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gpu",
        choices=("auto", "require", "never"),
        default="auto",
        help="auto: GPU tests skip where there is no GPU; require: they fail there; never: they skip",
    )


@pytest.fixture(scope="session")
def gpu_mode(pytestconfig: pytest.Config) -> str:
    """auto, require or never."""
    return str(pytestconfig.getoption("--gpu"))


def reference_backend() -> Platform:
    from gpu_npu.backends.reference import ReferencePlatform

    return ReferencePlatform()


def cpu_backend() -> Platform:
    from gpu_npu.backends.devices.cpu import CpuDevice
    from gpu_npu.backends.executor import DevicePlatform

    return DevicePlatform(CpuDevice())


def emulated_backend(device: dict[str, Any], executor: dict[str, Any]) -> Platform:
    from gpu_npu.backends.devices.emulated import EmulatedDevice
    from gpu_npu.backends.executor import DevicePlatform, Tuning

    return DevicePlatform(EmulatedDevice(**device), Tuning(**executor))


def cuda_device(gpu_mode: str) -> Device:
    """Skips where a GPU is not wanted, or is wanted only if there and is not; whatever else goes wrong is a failure."""
    from gpu_npu.connectome import BackendUnavailableError

    if gpu_mode == "never":
        pytest.skip("--gpu=never")
    from gpu_npu.backends.devices.cuda import CudaDevice

    try:
        return CudaDevice()
    except BackendUnavailableError as error:
        if gpu_mode == "require":
            raise
        pytest.skip(f"no GPU: {error}")


def cuda_backend(gpu_mode: str) -> Platform:
    from gpu_npu.backends.executor import DevicePlatform

    return DevicePlatform(cuda_device(gpu_mode))


@pytest.fixture(scope="session", params=BACKENDS)
def backend_factory(request: pytest.FixtureRequest, gpu_mode: str) -> BackendFactory:
    """Makes new platforms of one kind; a test that takes it runs once on every kind."""
    if request.param == "reference":
        return reference_backend
    if request.param == "cpu":
        return cpu_backend
    if request.param == "cuda":
        cuda_backend(gpu_mode)  # skips here, once
        return lambda: cuda_backend(gpu_mode)
    return lambda: emulated_backend(*EMULATED[request.param])


@pytest.fixture(scope="session", params=("cpu", "emulated", "cuda"))
def device_factory(request: pytest.FixtureRequest, gpu_mode: str) -> DeviceFactory:
    """Makes new devices of one kind, for what lies below a backend."""
    from gpu_npu.backends.devices.cpu import CpuDevice
    from gpu_npu.backends.devices.emulated import EmulatedDevice

    if request.param == "cpu":
        return lambda: CpuDevice(workers=2)
    if request.param == "emulated":
        return lambda: EmulatedDevice(block=64, seed=3)
    cuda_device(gpu_mode).close()  # skips here, once
    return lambda: cuda_device(gpu_mode)


def shared_data() -> Path:
    """The folder of data sets beside the repository. Where it is absent the test skips; in CI (the variable is set) it fails."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        message = "the shared data sets are not there: shared/data beside the repository"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
