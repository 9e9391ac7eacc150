"""Which backend, and why. An explicit choice never falls back; only "auto" chooses, once, before loading."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpu_npu.backends.base import Platform
from gpu_npu.backends.kernel_limits import refusal
from gpu_npu.backends.memory import estimate_bytes
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.checks import check_integer
from gpu_npu.connectome import PlasticityRule
from gpu_npu.errors import BackendUnavailableError, DeviceMemoryError, KernelError, NetworkError, problem_of

NAMES = ("auto", "reference", "cpu", "cuda")
BackendChoice = str | Platform | Callable[[], Platform]
"""One of NAMES, a Platform, or a function that makes one."""


def open_platform(
    choice: BackendChoice, device: int | None = None, shape: NetworkShape | None = None, rules: Sequence[PlasticityRule] = ()
) -> tuple[Platform, str]:
    """A platform, and the reason it was taken, for people.

    choice: "auto" takes CUDA where a GPU is usable and a network of this shape fits by the estimate, else the CPU, else the
    reference, which is also taken where kernels have no such network with these rules (several delays). device: number of the
    GPU, for "cuda" and "auto"; with "auto" it must then be usable. None is the current GPU of the process. shape: None where any
    fits.

    BackendUnavailableError: an explicit choice that cannot run here. DeviceMemoryError: one that is too small.
    """
    if not isinstance(choice, str):
        if device is not None:
            raise NetworkError(f"device {device!r}: a platform that is handed in has its device already", python="leave device out")
        platform = choice if isinstance(choice, Platform) else choice() if callable(choice) else None
        if not isinstance(platform, Platform):
            raise NetworkError(f"backend: {choice!r} is neither one of {', '.join(NAMES)}, nor a Platform, nor a function that makes one")
        return platform, "handed in"
    if choice not in NAMES:
        raise NetworkError(f"backend {choice!r} is not one of {', '.join(NAMES)}")
    if device is not None and choice in ("reference", "cpu"):
        raise NetworkError(
            f"device {device!r}: the backend {choice} has no devices to choose from",
            python="backend='cuda' has some, else leave device out",
        )
    if device is not None:
        check_integer(device, "device (the number of a GPU)")
    needed = 0 if shape is None else estimate_bytes(shape)
    if choice == "reference":
        return _reference(), "chosen"
    if choice == "cpu":
        return _cpu(), "chosen"
    if choice == "cuda":
        return _cuda(device, needed), "chosen"
    if device is not None:
        return _cuda(device, needed), f"auto, with device={device} given"
    passed: list[str] = []
    makers: tuple[tuple[str, Callable[[], Platform]], ...] = (("cuda", lambda: _cuda(None, needed)), ("cpu", _cpu))
    for name, make in makers:
        if problem := "" if shape is None else refusal(shape, rules):
            passed.append(f"not {name}: {problem}")
            continue
        try:
            return make(), "; ".join(["auto took the first that runs here", *passed])
        except (BackendUnavailableError, KernelError, DeviceMemoryError) as error:
            passed.append(f"not {name}: {problem_of(error).splitlines()[0]}")
    return _reference(), "; ".join(["auto took the last resort", *passed])


def _reference() -> Platform:
    from gpu_npu.backends.reference import ReferencePlatform

    return ReferencePlatform()


def _cpu() -> Platform:
    from gpu_npu.backends.devices.cpu import CpuDevice
    from gpu_npu.backends.executor import DevicePlatform

    return DevicePlatform(CpuDevice())


def _cuda(index: int | None, needed: int) -> Platform:
    from gpu_npu.backends.devices.cuda import CudaDevice
    from gpu_npu.backends.executor import DevicePlatform

    device = CudaDevice(index)
    free, _ = device.free_and_total()
    if needed > free:
        device.close()
        raise DeviceMemoryError(f"{device.description}: the network needs about {needed:,} bytes, {free:,} are free")
    return DevicePlatform(device)
