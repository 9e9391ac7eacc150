"""Which backend, and why. An explicit choice never falls back; only "auto" chooses, once, before loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu_npu.backends.base import Backend
from gpu_npu.backends.layout import estimate_bytes
from gpu_npu.checks import check_integer
from gpu_npu.errors import BackendUnavailableError, DeviceMemoryError, KernelError, NetworkError

NAMES = ("auto", "reference", "cpu", "cuda")
BackendChoice = str | Backend | Callable[[], Backend]
"""One of NAMES, a backend that holds no network yet, or a function that makes one."""


def open_backend(
    choice: BackendChoice,
    device: int | None = None,
    *,
    neuron_capacity: int,
    synapse_capacity: int,
    weight_dtype: Any,
    psp_dtype: Any,
    ledger_window: int,
) -> tuple[Backend, str]:
    """A backend that holds no network yet, and the reason it was taken, for people.

    choice: "auto" takes CUDA where a GPU is usable and a network of this size fits by the estimate, else
    the CPU, else the reference. device: number of the GPU, for "cuda" and "auto"; with "auto" it must then be usable.
    None is the current GPU of the process.

    BackendUnavailableError: an explicit choice that cannot run here. DeviceMemoryError: one that is too small.
    """
    if not isinstance(choice, str):
        if device is not None:
            raise NetworkError(f"device {device!r}: a backend that is handed in has its device already", python="leave device out")
        backend = choice if isinstance(choice, Backend) else choice() if callable(choice) else None
        if not isinstance(backend, Backend):
            raise NetworkError(f"backend: {choice!r} is neither one of {', '.join(NAMES)}, nor a Backend, nor a function that makes one")
        return backend, "handed in"
    if choice not in NAMES:
        raise NetworkError(f"backend {choice!r} is not one of {', '.join(NAMES)}")
    if device is not None and choice in ("reference", "cpu"):
        raise NetworkError(
            f"device {device!r}: the backend {choice} has no devices to choose from",
            python="backend='cuda' has some, else leave device out",
        )
    if device is not None:
        check_integer(device, "device (the number of a GPU)")
    needed = estimate_bytes(neuron_capacity, synapse_capacity, weight_dtype, psp_dtype, ledger_window)
    if choice == "reference":
        return _reference(), "chosen"
    if choice == "cpu":
        return _cpu(), "chosen"
    if choice == "cuda":
        return _cuda(device, needed), "chosen"
    if device is not None:
        return _cuda(device, needed), f"auto, with device={device} given"
    passed: list[str] = []
    makers: tuple[tuple[str, Callable[[], Backend]], ...] = (("cuda", lambda: _cuda(None, needed)), ("cpu", _cpu))
    for name, make in makers:
        try:
            return make(), "; ".join(["auto took the first that runs here", *passed])
        except (BackendUnavailableError, KernelError, DeviceMemoryError) as error:
            passed.append(f"not {name}: {str(error).splitlines()[0]}")
    return _reference(), "; ".join(["auto took the last resort", *passed])


def _reference() -> Backend:
    from gpu_npu.backends.reference import Reference

    return Reference()


def _cpu() -> Backend:
    from gpu_npu.backends.devices.cpu import CpuDevice
    from gpu_npu.backends.executor import Executor

    return Executor(CpuDevice())


def _cuda(index: int | None, needed: int) -> Backend:
    from gpu_npu.backends.devices.cuda import CudaDevice
    from gpu_npu.backends.executor import Executor

    device = CudaDevice(index)
    free, _ = device.memory()
    if needed > free:
        device.close()
        raise DeviceMemoryError(f"{device.description}: the network needs about {needed:,} bytes, {free:,} are free")
    return Executor(device)
