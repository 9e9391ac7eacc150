"""A CUDA device, by CuPy: the only file that imports it, and only when a CudaDevice is made.

Each method is one call of the CUDA runtime on the caller's current stream. What is worth testing is elsewhere: the
arguments of a launch are checked in `base` against the sizes in the cubin, and the order of operations runs in tests on
the emulated device. Memory is plain device memory from CuPy's pool, never managed memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from gpu_npu.backends import toolchain
from gpu_npu.backends.devices.base import Device, Host, Launch
from gpu_npu.backends.kernels import Program
from gpu_npu.backends.toolchain import driver
from gpu_npu.errors import BackendUnavailableError, KernelError, NetworkError
from gpu_npu.extras import install_command

NO_DEVICE, INSUFFICIENT_DRIVER = 100, 35
"""cudaErrorNoDevice, cudaErrorInsufficientDriver"""
NO_DRIVER = "there is no NVIDIA driver on this machine: install one first, or choose another backend"
NO_GPU = "no GPU can be used: CUDA finds none; check nvidia-smi and CUDA_VISIBLE_DEVICES"
DLPACK_CUDA = (2, 13)
"""kDLCUDA, kDLCUDAManaged: device types of arrays in GPU memory."""


def call_all(calls: Sequence[partial[Any]]) -> None:
    """Call them in order. Nothing in here is Python, so Ctrl-C comes before the first one or after the last."""
    deque(map(partial.__call__, calls), maxlen=0)


class Prepared(NamedTuple):
    """Calls of a batch of launches, and the arrays in which their arguments lie."""

    calls: list[partial[Any]]
    cells: list[Host]


class CudaArray:
    """Memory of one CudaDevice; `memory` is CuPy's pointer, which keeps it (or its owner) alive."""

    __slots__ = ("address", "dtype", "memory", "nbytes", "size")

    def __init__(self, memory: Any, address: int, count: int, dtype: np.dtype[Any]) -> None:
        self.memory, self.address = memory, address
        self.size, self.dtype, self.nbytes = count, dtype, count * dtype.itemsize


class CudaDevice(Device):
    """GPU number `index` (None: the current one)."""

    name: ClassVar[str] = "cuda"

    def __init__(self, index: int | None = None, *, program: Program | None = None) -> None:
        super().__init__(program)
        self._cupy = cupy = _import_cupy()
        self._uploading: list[Host] = []
        self._live: set[CudaArray] = set()
        count, current = _devices(cupy)
        self._index = current if index is None else index
        if not 0 <= self._index < count:
            raise BackendUnavailableError(f"there is no GPU {self._index}: this machine has {count}, numbered from 0")
        with self._current():
            properties = cupy.cuda.runtime.getDeviceProperties(self._index)
            self.cache_bytes = int(properties["l2CacheSize"])
            capability = 10 * properties["major"] + properties["minor"]
            self._description = f"GPU {self._index}, {properties['name'].decode()}, compute capability {capability / 10}"
            if capability < toolchain.ARCHITECTURES[0]:
                raise BackendUnavailableError(f"{self._description}: {toolchain.ARCHITECTURES[0] / 10} is the least that is supported")
            cubin, _ = toolchain.compile_cubin(self._program.sources, self._program.unit, capability, majors=(_runtime_major(cupy),))
            self._value_bytes = toolchain.parameter_sizes(cubin)
            self._module = cupy.cuda.function.Module()
            self._module.load(cubin)
            self._functions = {name: self._module.get_function(name) for name in self._kernels}
            # As many blocks as the GPU holds at once: every kernel strides over its work.
            processors, occupancy = properties["multiProcessorCount"], cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
            most = properties["sharedMemPerBlockOptin"]
            self._shared = {name: self._claim_shared(name, most) if kernel.wide else 0 for name, kernel in self._kernels.items()}
            self._grids = {}
            for name, kernel in self._kernels.items():
                together = occupancy(self._functions[name].ptr, kernel.block, self._shared[name])
                self._grids[name] = 1 if kernel.single_block else processors * max(together, 1)

    def _claim_shared(self, name: str, most: int) -> int:
        """All the dynamic shared memory that a block of this kernel can have beside its static one: bytes."""
        driver, pointer = self._cupy.cuda.driver, self._functions[name].ptr
        dynamic = int(most - driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, pointer))
        driver.funcSetAttribute(pointer, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, dynamic)
        return dynamic

    @property
    def description(self) -> str:
        return self._description

    @contextmanager
    def _current(self) -> Iterator[int]:
        """This GPU is the current one; gives the caller's stream. What CUDA refuses is a KernelError."""
        cuda = self._cupy.cuda
        try:
            with cuda.Device(self._index):
                yield cuda.get_current_stream().ptr
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as problem:
            raise KernelError(f"{self._description}: {problem}") from problem

    # -- memory --------------------------------------------------------------------------------------------------
    def free_and_total(self) -> tuple[int, int]:
        with self._current():
            free, total = self._cupy.cuda.runtime.memGetInfo()
            return free + self._cupy.get_default_memory_pool().free_bytes(), total

    def address(self, array: Any) -> int:
        self._own(array)
        return int(array.address)

    def zero(self, array: Any) -> None:
        self._own(array)
        with self._current() as stream:
            self._cupy.cuda.runtime.memsetAsync(array.address, 0, array.nbytes, stream)

    def mark(self) -> Any:
        with self._current():
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record(self._cupy.cuda.get_current_stream())
        return event

    def wait(self, mark: Any = None) -> None:
        with self._current() as stream:
            if mark is None:
                self._cupy.cuda.runtime.streamSynchronize(stream)
                self._uploading.clear()
            else:
                mark.synchronize()

    def mapped(self, count: int, dtype: DTypeLike) -> tuple[Any, Host]:
        # With unified addressing a kernel reaches pinned memory at the address that the host knows.
        kind = np.dtype(dtype)
        with self._current():
            memory = self._cupy.cuda.alloc_pinned_memory(max(count, 1) * kind.itemsize)
        host = np.frombuffer(memory, kind, count)
        host[:] = np.zeros((), kind)
        return CudaArray(memory, host.ctypes.data, count, kind), host

    def _alloc(self, count: int, dtype: np.dtype[Any]) -> CudaArray:
        nbytes = count * dtype.itemsize
        try:
            with self._current():
                memory = self._cupy.cuda.alloc(max(nbytes, 1))
        except self._cupy.cuda.memory.OutOfMemoryError:
            raise self._no_memory(nbytes, self.free_and_total()[0]) from None
        array = CudaArray(memory, memory.ptr, count, dtype)
        self._live.add(array)
        self.zero(array)
        return array

    def _free(self, array: Any) -> None:
        self._live.discard(array)
        array.memory = None  # back to the pool, which hands it out again in the order of the stream

    def close(self) -> None:
        for array in tuple(self._live):
            self._free(array)
        super().close()

    def _owns(self, array: Any) -> bool:
        return isinstance(array, CudaArray) and array.memory is not None

    # -- transfers -----------------------------------------------------------------------------------------------
    def _upload(self, array: Any, host: Host, at: int) -> None:
        self._uploading.append(host)  # where the GPU reads the host's memory itself, it may do so later
        self._move(array.address + at * array.dtype.itemsize, host.ctypes.data, host.nbytes, "memcpyHostToDevice")

    def _download(self, array: Any, host: Host, at: int) -> None:
        self._move(host.ctypes.data, array.address + at * array.dtype.itemsize, host.nbytes, "memcpyDeviceToHost")

    def _copy(self, dst: Any, dst_at: int, src: Any, src_at: int, count: int) -> None:
        size = dst.dtype.itemsize
        self._move(dst.address + dst_at * size, src.address + src_at * size, count * size, "memcpyDeviceToDevice")

    def _move(self, dst: int, src: int, nbytes: int, kind: str) -> None:
        runtime = self._cupy.cuda.runtime
        with self._current() as stream:
            runtime.memcpyAsync(dst, src, nbytes, getattr(runtime, kind), stream)

    # -- kernels -------------------------------------------------------------------------------------------------
    def _prepare(self, launches: tuple[Launch, ...]) -> Prepared:
        prepared, cells, pointer_to = [], [], self._cupy.cuda.function.CPointer
        for launch in launches:
            kernel = self._kernels[launch.kernel]
            pairs = zip(kernel.arguments, launch.args, strict=True)
            values = [self._pointer(arg) if code.startswith("*") else np.atleast_1d(np.asarray(arg)) for code, arg in pairs]
            cells += values
            # What it points at is the argument, read at the launch. An array, CuPy would convert anew each time: 60 us for a struct.
            pointers = tuple(pointer_to(value.ctypes.data) for value in values)
            grid = 1 if launch.single else self._grids[kernel.name]
            # grid, block, arguments, dynamic shared memory, stream: the current one, cooperative
            rest = ((grid,), (kernel.block,), pointers, self._shared[kernel.name], None, kernel.wide)
            prepared.append(partial(self._functions[kernel.name], *rest))
        return Prepared(prepared, cells)

    def _launch(self, prepared: Prepared) -> None:
        with self._current():
            call_all(prepared.calls)

    # -- arrays of the user --------------------------------------------------------------------------------------
    def adopt(self, obj: object, dtype: DTypeLike) -> CudaArray | None:
        if hasattr(obj, "__cuda_array_interface__"):
            read = self._cupy.asarray
        elif hasattr(obj, "__dlpack_device__") and int(obj.__dlpack_device__()[0]) in DLPACK_CUDA:
            read = self._cupy.from_dlpack
        else:
            return None
        with self._current():
            array = read(obj)
        wanted, got = np.dtype(dtype), (array.dtype, array.ndim, array.device.id)
        if got != (wanted, 1, self._index) or not array.flags.c_contiguous:
            raise NetworkError(
                f"the array on the device is {array.dtype} of shape {array.shape} on GPU {array.device.id}, "
                f"contiguous: {array.flags.c_contiguous}; a contiguous array of {wanted} with one dimension on GPU {self._index} is needed"
            )
        return CudaArray(array.data, array.data.ptr, array.size, wanted)

    def view(self, array: Any, at: int, count: int) -> Any:
        self._check_span(array, at, count)
        return self._cupy.ndarray((count,), array.dtype, array.memory + at * array.dtype.itemsize)


def _import_cupy() -> Any:
    try:
        import cupy
    except (ImportError, OSError, AttributeError, RuntimeError, ValueError) as problem:  # also where it does not fit NumPy or CUDA
        raise BackendUnavailableError(_without_cupy(problem)) from problem
    return cupy


def _without_cupy(problem: Exception) -> str:
    """What is missing where CuPy cannot be imported: a driver and a GPU come first."""
    answer = driver.ask()
    if answer is None:
        return NO_DRIVER
    (major, minor), gpus = answer
    if not gpus:
        return NO_GPU
    extra = driver.extra()
    if not extra:
        return f"the NVIDIA driver knows CUDA {major}.{minor}, and {min(driver.EXTRAS)} is the least that is supported: update the driver"
    return f"CUDA needs CuPy, which cannot be imported ({problem}): {install_command(extra)}"


def _runtime_major(cupy: Any) -> int:
    """CUDA version that this CuPy was built for."""
    return int(cupy.cuda.runtime.runtimeGetVersion()) // 1000


def _devices(cupy: Any) -> tuple[int, int]:
    """(how many GPUs there are, at least one; the current one); BackendUnavailableError says what stands in the way."""
    runtime = cupy.cuda.runtime
    try:
        known = int(runtime.driverGetVersion())
        if known == 0:
            raise BackendUnavailableError(NO_DRIVER)
        if known // 1000 < _runtime_major(cupy):
            told = f"the NVIDIA driver knows CUDA {known // 1000}.{known % 1000 // 10} and this CuPy is for CUDA {_runtime_major(cupy)}"
            instead = f", or {install_command(driver.EXTRAS[known // 1000])}" if known // 1000 in driver.EXTRAS else ""
            raise BackendUnavailableError(f"{told}: update the driver{instead}")
        count = int(runtime.getDeviceCount())
        current = int(runtime.getDevice()) if count else 0
    except runtime.CUDARuntimeError as problem:
        if problem.status not in (NO_DEVICE, INSUFFICIENT_DRIVER):
            raise BackendUnavailableError(f"CUDA does not start: {problem}") from problem
        way_out = "update the NVIDIA driver" if problem.status == INSUFFICIENT_DRIVER else "check nvidia-smi and CUDA_VISIBLE_DEVICES"
        raise BackendUnavailableError(f"no GPU can be used: {problem}; {way_out}") from problem
    if count == 0:
        raise BackendUnavailableError(NO_GPU)
    return count, current
