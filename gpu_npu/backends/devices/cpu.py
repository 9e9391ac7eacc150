"""The CPU as a device: the flat build of the kernels, arrays in host memory, everything done when a call returns."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import DTypeLike

from gpu_npu.backends import toolchain
from gpu_npu.backends.devices.base import Device, Host, Launch
from gpu_npu.backends.kernels import Program
from gpu_npu.errors import KernelError, NetworkError
from gpu_npu.limits import cpu_workers, host_memory

PAGE = 4096
DLPACK_CPU = 1


@runtime_checkable
class _HostDLPack(Protocol):
    """What offers its memory by DLPack."""

    def __dlpack__(self, *, stream: None = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


class CpuDevice(Device):
    """All cores of this machine; `workers` threads (default: as many as this process may run at once), one block each."""

    name: ClassVar[str] = "cpu"
    alone: ClassVar[int] = 1024
    propagation: ClassVar[str] = "owned"

    def __init__(self, *, workers: int | None = None, program: Program | None = None) -> None:
        super().__init__(program)
        if workers is not None and workers < 1:
            raise NetworkError(f"workers={workers}: at least 1 is needed, or None for one a core")
        self._workers, self._limited = cpu_workers() if workers is None else (workers, "")
        self._library = CpuLibrary(self._program)
        started = self._library.threads(self._workers)
        if started < self._workers:
            self._workers, self._limited = started, f" (the system starts no more threads: {self._workers} were asked for)"
        self._value_bytes = self._library.value_bytes
        self._live: dict[int, Any] = {}
        self._adopted: WeakValueDictionary[int, Any] = WeakValueDictionary()

    @property
    def description(self) -> str:
        workers = f"{self._workers} worker{'s' if self._workers > 1 else ''}{self._limited}"
        return f"CPU {platform.machine()}, {workers}, {self._library.origin}"

    def free_and_total(self) -> tuple[int, int]:
        return host_memory()

    def address(self, array: Any) -> int:
        self._own(array)
        return int(array.ctypes.data)

    def zero(self, array: Any) -> None:
        self._own(array)
        array[:] = np.zeros((), array.dtype)

    def mark(self) -> None:
        return

    def wait(self, mark: Any = None) -> None:
        return

    def mapped(self, count: int, dtype: DTypeLike) -> tuple[Any, Host]:
        array = self._alloc(count, np.dtype(dtype))
        return array, array

    def adopt(self, obj: object, dtype: DTypeLike) -> Any | None:
        """Host memory is this device's memory: a NumPy array, or what DLPack says lies on a CPU."""
        if isinstance(obj, np.ndarray):
            array = obj.view()
        elif isinstance(obj, _HostDLPack) and int(obj.__dlpack_device__()[0]) == DLPACK_CPU:
            array = np.from_dlpack(obj)
        else:
            return None
        wanted = np.dtype(dtype)
        if array.dtype != wanted or array.ndim != 1 or not array.flags.c_contiguous:
            raise NetworkError(
                f"the array is {array.dtype} of shape {array.shape}, contiguous: {array.flags.c_contiguous}; "
                f"a contiguous array of {wanted} with one dimension is needed"
            )
        self._adopted[id(array)] = array
        return array

    def view(self, array: Any, at: int, count: int) -> Any:
        self._check_span(array, at, count)
        return array[at : at + count]

    def close(self) -> None:
        super().close()
        self._live.clear()

    def _alloc(self, count: int, dtype: np.dtype[Any]) -> Any:
        nbytes = count * dtype.itemsize
        try:
            memory = np.zeros(nbytes + PAGE, np.uint8)
        except MemoryError:
            raise self._no_memory(nbytes, self.free_and_total()[0]) from None
        start = -memory.ctypes.data % PAGE
        array = memory[start : start + nbytes].view(dtype)
        self._live[id(array)] = array
        return array

    def _free(self, array: Any) -> None:
        del self._live[id(array)]

    def _owns(self, array: Any) -> bool:
        return self._live.get(id(array)) is array or self._adopted.get(id(array)) is array

    def _upload(self, array: Any, host: Host, at: int) -> None:
        array[at : at + host.size] = host.reshape(-1)

    def _download(self, array: Any, host: Host, at: int) -> None:
        host.reshape(-1)[:] = array[at : at + host.size]

    def _copy(self, dst: Any, dst_at: int, src: Any, src_at: int, count: int) -> None:
        dst[dst_at : dst_at + count] = src[src_at : src_at + count]

    def _prepare(self, launches: tuple[Launch, ...]) -> PreparedBatch:
        batch = PreparedBatch(len(launches))
        for launch in launches:
            workers = 1 if launch.single or self._kernels[launch.kernel].single_block else self._workers
            # An array given by value is read where it lies, at every launch.
            pairs = zip(self._kernels[launch.kernel].arguments, launch.args, strict=True)
            cells = [self._pointer(arg) if code.startswith("*") else np.asarray(arg) for code, arg in pairs]
            wide = self._kernels[launch.kernel].wide
            batch.add(self._library.bodies[launch.kernel], cells, grid=workers, block=1, workers=workers, cooperative=wide)
        return batch

    def _launch(self, prepared: PreparedBatch) -> None:
        self._library.launch(prepared)


class _CLaunch(ctypes.Structure):
    """cuemu::Launch of kernels/cpu/launch.h."""

    _fields_ = (
        ("body", ctypes.c_void_p), ("args", ctypes.c_void_p), ("seed", ctypes.c_uint64),
        ("grid", ctypes.c_uint32), ("block", ctypes.c_uint32), ("workers", ctypes.c_uint32), ("shared", ctypes.c_uint32),
        ("cooperative", ctypes.c_uint64),
    )  # fmt: skip


class PreparedBatch:
    """Launches as the library takes them, and what they point to."""

    def __init__(self, count: int) -> None:
        self.count = 0
        self.launches = (_CLaunch * count)()
        self.address = ctypes.addressof(self.launches)
        self._keep: list[Any] = []

    def add(
        self, body: int, cells: list[Any], *, grid: int, block: int, workers: int, seed: int = 0, shared: int = 0, cooperative: bool = False
    ) -> None:  # fmt: skip
        """`cells`: a NumPy array for each argument, holding its value. `shared`: bytes of dynamic shared memory a block."""
        args = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
        self.launches[self.count] = _CLaunch(body, ctypes.addressof(args), seed, grid, block, workers, shared, cooperative)
        self.count += 1
        self._keep.append((args, cells))


class CpuLibrary:
    """A CPU build of the kernels, loaded and held against the table of kernels."""

    def __init__(
        self, program: Program, *, flavour: toolchain.Flavour = "flat", sanitize: str = "", defines: Iterable[str] = ()
    ) -> None:
        kernels = program.kernels
        self._library, self.origin = toolchain.load_cpu(
            program.sources, program.unit, kernels, flavour=flavour, sanitize=sanitize, defines=defines
        )
        self._run = self._library.npu_launch
        self._run.argtypes = (ctypes.c_uint, ctypes.c_void_p)
        self.bodies: dict[str, int] = {}
        self.value_bytes: dict[str, tuple[int, ...]] = {}
        for name, kernel in kernels.items():
            self.bodies[name] = ctypes.cast(getattr(self._library, f"npu_body_{name}"), ctypes.c_void_p).value or 0
            text = ctypes.create_string_buffer(1024)
            getattr(self._library, f"npu_signature_{name}")(text, ctypes.c_size_t(len(text)))
            compiled = text.value.decode().split()
            if len(compiled) != len(kernel.arguments) or not all(map(_same, kernel.arguments, compiled)):
                raise KernelError(f"{name} takes {compiled}, and the table of kernels says {kernel.arguments}")
            self.value_bytes[name] = tuple(8 if code.startswith("*") else int(code[1:]) for code in compiled)

    def launch(self, batch: PreparedBatch) -> None:
        """Run a batch; KernelError says what failed."""
        if self._run(batch.count, batch.address):
            raise KernelError(self._library.npu_error().decode())

    def threads(self, wanted: int) -> int:
        """How many of `wanted` threads the system lets work at once, the calling one included: 1 or more."""
        return min(wanted, int(self._library.npu_threads(ctypes.c_uint(wanted))))

    def guard(self, address: int, nbytes: int, on: bool) -> None:
        """Under ASan: make memory untouchable for kernels, or touchable again."""
        self._library.npu_guard(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), int(on))


def _same(code: str, compiled: str) -> bool:
    """Whether a code of the table is what was compiled; structs have no code there, only a size ("s504", "*?")."""
    return code == compiled or (code[0] == "*" and compiled == "*?") or compiled[0] == "s"
