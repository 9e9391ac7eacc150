"""A GPU for tests: the emulated build of the kernels on a device with asynchronous manners.

What drives a GPU breaks where it relies on things happening at once. Here nothing does: uploads, copies, zeroing and
launches are queued and take effect at `wait()`. An upload reads its host array only then, a download fills its host array
only then and spoils it until then; arguments by value are taken at the launch. Memory is not zero before its zeroing has
run, and has guard bytes on both sides that are looked at in `wait()` and `free()`; under ASan kernels may not touch them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from gpu_npu.backends.devices.base import Device, Host, Launch
from gpu_npu.backends.devices.cpu import CpuLibrary, PreparedBatch
from gpu_npu.backends.kernels import Program
from gpu_npu.errors import KernelError, NetworkError
from gpu_npu.limits import host_memory

GUARD = 256
"""Bytes before and after an array; also its alignment, as on a GPU."""
GUARD_BYTE, FRESH_BYTE, SPOILT_BYTE = 0xA5, 0xCB, 0xCD
INTACT = bytes([GUARD_BYTE]) * GUARD


class EmulatedArray:
    """Memory of an EmulatedDevice: nothing in it can be read or written but through the device."""

    __slots__ = ("_bytes", "_device", "_room", "address", "dtype", "nbytes", "size")

    def __init__(self, device: EmulatedDevice, dtype: np.dtype[Any], memory: Host, room: Host) -> None:
        """`memory`: its bytes; `room`: the same with the guards, or nothing where the memory is another array's."""
        self._device: EmulatedDevice | None = device
        self._bytes, self._room, self.dtype = memory, room, dtype
        self.nbytes, self.address = memory.size, memory.ctypes.data
        self.size = memory.size // dtype.itemsize

    def guards(self) -> tuple[Host, Host]:
        return self._room[:GUARD], self._room[-GUARD:]

    def items(self, at: int, count: int) -> Host:
        return self._bytes[at * self.dtype.itemsize : (at + count) * self.dtype.itemsize]


class EmulatedView:
    """Part of an EmulatedArray as users get it: DLPack of host memory, after the device's work so far."""

    def __init__(self, array: EmulatedArray, at: int, count: int) -> None:
        self._array, self._at, self._count = array, at, count

    def __dlpack__(self, **options: Any) -> Any:
        if self._array._device is not None:
            self._array._device.wait()
        return self._array.items(self._at, self._count).view(self._array.dtype).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array._bytes.__dlpack_device__()


@dataclass(frozen=True)
class Grid:
    """Kernels run with `block` threads a block on `blocks` blocks, dealt out to `workers` OS threads. Wide ones have `shared`
    bytes of dynamic shared memory a block, and an OS thread a block. `seed`: 0 for threads in index order, anything else shuffles
    their schedule, differently at every launch."""

    block: int = 64
    blocks: int = 3
    workers: int = 2
    seed: int = 0
    shared: int = 16384
    cache_bytes: int = 2**20

    def __post_init__(self) -> None:
        if not (1 <= self.block <= 1024 and self.blocks >= 1 and self.workers >= 1 and self.shared >= 0):
            raise NetworkError(
                f"block={self.block}, blocks={self.blocks}, workers={self.workers}, shared={self.shared}: at least 1 each (shared: 0), "
                "and at most 1024 threads a block"
            )


class EmulatedDevice(Device):
    """`grid`: as `Grid`. `sanitize`: "", "address,undefined" or "thread" (the process must run with that sanitizer's library
    preloaded). `asynchronous`: False does everything at once. `memory_limit`: bytes that this device has; None for what the host
    has. `defines`: of the build."""

    name: ClassVar[str] = "emulated"

    def __init__(
        self, *, sanitize: str = "", asynchronous: bool = True, memory_limit: int | None = None,
        defines: Iterable[str] = (), program: Program | None = None, **grid: int,
    ) -> None:  # fmt: skip
        super().__init__(program)
        self._grid = Grid(**grid)
        self._asynchronous, self._limit, self.cache_bytes = asynchronous, memory_limit, self._grid.cache_bytes
        self._library = CpuLibrary(self._program, flavour="emulated", sanitize=sanitize, defines=defines)
        self._value_bytes = self._library.value_bytes
        self._sanitize = sanitize
        self._live: set[EmulatedArray] = set()
        self._mapped: dict[EmulatedArray, Host] = {}
        self._queue: deque[Callable[[], None]] = deque()
        self._launched = 0

    @property
    def description(self) -> str:
        return f"emulated GPU, {self._grid.blocks} blocks of {self._grid.block} threads, schedule {self._grid.seed}"

    @property
    def small(self) -> int:
        return super().small if self._limit is None else 0  # a limit is looked at for every byte

    def free_and_total(self) -> tuple[int, int]:
        if self._limit is None:
            return host_memory()
        return self._limit - self._allocated, self._limit

    def address(self, array: Any) -> int:
        self._own(array)
        return int(array.address)

    def zero(self, array: Any) -> None:
        self._own(array)
        self._do(lambda: array._bytes.fill(0))

    def mark(self) -> Callable[[], None]:
        def here() -> None:
            return

        self._queue.append(here)
        return here

    def wait(self, mark: Any = None) -> None:
        """Do what is queued, in order. After a failure the rest is dropped: the device is as good as lost."""
        done = mark is not None and mark not in self._queue
        try:
            while self._queue and not done:
                action = self._queue.popleft()
                action()
                done = action is mark
        except BaseException:
            self._queue.clear()
            raise
        for array in self._live:
            self._check_guards(array)

    def mapped(self, count: int, dtype: DTypeLike) -> tuple[Any, Host]:
        array = self._alloc(count, np.dtype(dtype))
        host = self._mapped[array] = np.zeros(count, dtype)
        return array, host

    def adopt(self, obj: object, dtype: DTypeLike) -> EmulatedArray | None:
        """A view that this device gave is its memory; anything else is the host's."""
        if not isinstance(obj, EmulatedView):
            return None
        source = obj._array
        self._own(source)
        if source.dtype != np.dtype(dtype):
            raise NetworkError(f"the array on the device has dtype {source.dtype}, {np.dtype(dtype)} is needed")
        return EmulatedArray(self, source.dtype, source.items(obj._at, obj._count), source._room[:0])

    def view(self, array: Any, at: int, count: int) -> EmulatedView:
        self._check_span(array, at, count)
        return EmulatedView(array, at, count)

    def close(self) -> None:
        self.wait()
        for array in tuple(self._live):
            self._release(array)
        self._mapped.clear()
        super().close()

    def _do(self, action: Callable[[], None]) -> None:
        self._queue.append(action)
        if not self._asynchronous:
            self.wait()

    def _alloc(self, count: int, dtype: np.dtype[Any]) -> EmulatedArray:
        nbytes = count * dtype.itemsize
        memory = np.full(nbytes + 3 * GUARD, GUARD_BYTE, np.uint8)
        room = memory[-memory.ctypes.data % GUARD :][: nbytes + 2 * GUARD]
        array = EmulatedArray(self, dtype, room[GUARD : GUARD + nbytes], room)
        array._bytes.fill(FRESH_BYTE)
        self._live.add(array)
        for guard in array.guards():
            self._library.guard(guard.ctypes.data, guard.size, True)
        self.zero(array)
        return array

    def _free(self, array: Any) -> None:
        # What is queued may use it: it goes when its turn comes, but may not be named from now on.
        self._live.discard(array)
        array._device = None
        self._do(lambda: self._release(array))

    def _release(self, array: EmulatedArray) -> None:
        self._live.discard(array)
        array._device = None
        for guard in array.guards():
            self._library.guard(guard.ctypes.data, guard.size, False)
        self._check_guards(array)
        array._bytes.fill(SPOILT_BYTE)

    def _owns(self, array: Any) -> bool:
        return isinstance(array, EmulatedArray) and array._device is self

    def _upload(self, array: Any, host: Host, at: int) -> None:
        self._do(lambda: _assign(array.items(at, host.size), host.reshape(-1).view(np.uint8)))

    def _download(self, array: Any, host: Host, at: int) -> None:
        target = host.reshape(-1).view(np.uint8)
        target.fill(SPOILT_BYTE)
        self._do(lambda: _assign(target, array.items(at, host.size)))

    def _copy(self, dst: Any, dst_at: int, src: Any, src_at: int, count: int) -> None:
        self._do(lambda: _assign(dst.items(dst_at, count), src.items(src_at, count)))

    def _prepare(self, launches: tuple[Launch, ...]) -> tuple[Launch, ...]:
        return launches

    def _launch(self, prepared: tuple[Launch, ...]) -> None:
        batch = PreparedBatch(len(prepared))
        for launch in prepared:
            kernel = self._kernels[launch.kernel]
            self._launched += 1
            blocks = 1 if launch.single or kernel.single_block else self._grid.blocks
            pairs = zip(kernel.arguments, launch.args, strict=True)
            cells = [self._pointer(arg) if code.startswith("*") else np.array(arg) for code, arg in pairs]
            seed = self._grid.seed and (self._grid.seed << 32) + self._launched
            body, workers = self._library.bodies[kernel.name], blocks if kernel.wide else min(self._grid.workers, blocks)
            shape = {"grid": blocks, "block": self._grid.block, "workers": workers, "shared": self._grid.shared if kernel.wide else 0}
            batch.add(body, cells, **shape, seed=seed, cooperative=kernel.wide)
        arrays = {arg for launch in prepared for arg in launch.args if isinstance(arg, EmulatedArray)}
        written = [(array, self._mapped[array]) for array in arrays if array in self._mapped]
        for _, host in written:
            host.view(np.uint8).fill(SPOILT_BYTE)

        def run() -> None:
            self._library.launch(batch)
            for array, host in written:
                _assign(host.view(np.uint8), array.items(0, array.size))

        self._do(run)

    def _check_guards(self, array: EmulatedArray) -> None:
        if "address" in self._sanitize:
            return  # ASan has seen to it, and nobody may look at them
        for side, guard in zip(("before", "after"), array.guards(), strict=True):
            if guard.tobytes() != INTACT:
                raise KernelError(f"something wrote {side} an array of {array.size} {array.dtype}")


def _assign(target: Host, source: Host) -> None:
    target[:] = source
