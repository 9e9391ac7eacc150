"""The contract of a device: it allocates, moves bytes, launches kernels, and knows nothing of neurons.

Everything is asynchronous and in order: what an operation reads from the host must stay as it is, and what it writes to
the host may not be looked at, before the next `wait()`. A device may do things at once; nobody may rely on it. Arguments
that are passed by value to a kernel are taken at the launch.

Device arrays have one dimension, belong to the device that made them, and are opaque but for `size`, `dtype`, `nbytes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpu_npu.backends.kernels import Kernel, Program
from gpu_npu.errors import DeviceMemoryError, KernelError
from gpu_npu.objects import OneLine, Unique, described

Host = NDArray[Any]
PREPARED_BATCHES = 256
"""Batches of launches that a device remembers ready to go; then it starts afresh."""


@dataclass(frozen=True, eq=False, repr=False)
class Launch(OneLine):
    """One launch of a kernel. Two launches are never equal: a device keeps what it worked out for a Launch it has seen.

    `args`: a device array or None (a null pointer) for a pointer; a NumPy scalar or an array of size 1, read at the time
    of the launch, for a value. `single`: one block only. Keep Launch objects and write changing numbers into their
    size-1 arrays: launching the same ones again is cheap.
    """

    kernel: str
    args: tuple[Any, ...]
    single: bool = False


class Scratch:
    """Arrays of a moment, from `Device.scratch()`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.arrays: list[Any] = []

    def alloc(self, count: int, dtype: DTypeLike) -> Any:
        """As `Device.alloc`."""
        array = self._device.alloc(count, dtype)
        self.arrays.append(array)
        return array

    def alloc_all(self, wanted: Iterable[tuple[int, DTypeLike]]) -> list[Any]:
        """An array for each (count, dtype)."""
        return [self.alloc(count, dtype) for count, dtype in wanted]

    def keep(self) -> None:
        """What was allocated so far stays: whoever has it frees it."""
        self.arrays.clear()

    def uploaded(self, host: Host) -> Any:
        """A flat array with these items."""
        array = self.alloc(host.size, host.dtype)
        self._device.upload(array, np.ascontiguousarray(host).reshape(-1))
        return array


class Device(Unique, ABC):
    """A processor with its memory. The caller frees what it allocates; `close()` frees the rest."""

    name: ClassVar[str]
    propagation: ClassVar[str] = "choose"
    """The strategy of propagation that suits the device (layout.STRATEGIES)."""
    alone: ClassVar[int] = 0
    """Neurons, and a quarter of the synapses that deliver, up to which one block computes a burst sooner than all of them."""
    cache_bytes: int = 2**25
    """Of the last cache that all its processors share."""

    def __init__(self, program: Program | None) -> None:
        """`program`: None for the kernels of this package."""
        self._program = program or Program.of_project()
        self._kernels = self._program.kernels
        self._prepared: dict[tuple[Launch, ...], Any] = {}
        self._allocated = 0
        self._value_bytes: dict[str, tuple[int, ...]] = {}
        """Kernel -> bytes of each argument as compiled; a subclass fills it in when it has loaded the kernels."""

    def __repr__(self) -> str:
        return described(self, self.description)

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for people: the device, the build, the workers."""

    # -- memory --------------------------------------------------------------------------------------------------
    @property
    def small(self) -> int:
        """Bytes that are asked for without a look at what is free, which takes longer than the temporary arrays of an edit."""
        return 2**20

    def alloc(self, count: int, dtype: DTypeLike) -> Any:
        """An array of `count` zeros. Raises DeviceMemoryError, with needed and free bytes, before anything changes."""
        kind = np.dtype(dtype)
        needed = count * kind.itemsize
        if needed > self.small and needed > (free := self.free_and_total()[0]):
            raise self._no_memory(needed, free)
        array = self._alloc(count, kind)
        self._allocated += needed
        return array

    def alloc_all(self, wanted: Sequence[tuple[int, DTypeLike]]) -> list[Any]:
        """An array for each (count, dtype), or none at all: what could be had is given back."""
        arrays: list[Any] = []
        try:
            for count, dtype in wanted:
                arrays.append(self.alloc(count, dtype))
        except BaseException:
            self.release(*arrays)
            raise
        return arrays

    def free(self, array: Any) -> None:
        """Give an array back; using it afterwards is an error. What is still queued may use it."""
        self._own(array)
        self._prepared.clear()
        self._allocated -= array.nbytes
        self._free(array)

    @property
    def allocated(self) -> int:
        """Bytes in arrays now."""
        return self._allocated

    @abstractmethod
    def free_and_total(self) -> tuple[int, int]:
        """(free, total) bytes of the device."""

    @abstractmethod
    def address(self, array: Any) -> int:
        """Where the array starts, as kernels see it."""

    # -- transfers -----------------------------------------------------------------------------------------------
    def upload(self, array: Any, host: Host, at: int = 0) -> None:
        """array[at : at + host.size] = host; the host array is contiguous, of the same dtype, and stays as it is until the wait."""
        self._check_transfer(array, host, at)
        if host.size:
            self._upload(array, host, at)

    def download(self, array: Any, host: Host, at: int = 0) -> None:
        """host[:] = array[at : at + host.size]; the host array is contiguous, writeable and of the same dtype."""
        self._check_transfer(array, host, at)
        if not host.flags.writeable:
            raise KernelError("download into a read-only host array")
        if host.size:
            self._download(array, host, at)

    def copy(self, dst: Any, dst_at: int, src: Any, src_at: int, count: int) -> None:
        """dst[dst_at : dst_at + count] = src[src_at : src_at + count]; the dtypes are equal, the ranges do not overlap."""
        self._check_span(dst, dst_at, count)
        self._check_span(src, src_at, count)
        if dst.dtype != src.dtype:
            raise KernelError(f"copy from {src.dtype} to {dst.dtype}")
        if dst is src and abs(dst_at - src_at) < count:
            raise KernelError(f"copy of {count} items from {src_at} to {dst_at} of one array: the ranges overlap")
        if count:
            self._copy(dst, dst_at, src, src_at, count)

    @abstractmethod
    def zero(self, array: Any) -> None:
        """array[:] = 0"""

    @abstractmethod
    def mark(self) -> Any:
        """A moment in the order of things: after everything asked for so far."""

    @abstractmethod
    def wait(self, mark: Any = None) -> None:
        """Return when everything asked for before `mark` (None: so far) has happened; raises KernelError where something
        failed."""

    @abstractmethod
    def mapped(self, count: int, dtype: DTypeLike) -> tuple[Any, Host]:
        """Host memory that kernels write to: as an argument of kernels, and as a host array, zeros at first. What a kernel
        wrote is there after the wait for it. It is given back by `close()`."""

    # -- transfers of a moment: for edits and queries, not for bursts --------------------------------------------
    @contextmanager
    def scratch(self) -> Iterator[Scratch]:
        """Arrays that are given back at the end of the `with`, however it ends."""
        scratch = Scratch(self)
        try:
            yield scratch
        finally:
            self.release(*scratch.arrays)

    def fetched(self, array: Any, count: int, at: int = 0) -> Host:
        """array[at : at + count] on the host, after a wait."""
        host: Host = np.empty(count, array.dtype)
        self.download(array, host, at)
        self.wait()
        return host

    def release(self, *arrays: Any) -> None:
        """Free arrays once everything asked for has happened; None stands for one that was not needed."""
        self.wait()
        for array in arrays:
            if array is not None:
                self.free(array)

    # -- kernels -------------------------------------------------------------------------------------------------
    def kernel(self, name: str) -> Kernel:
        """The kernel of this name; KernelError where there is none."""
        if name not in self._kernels:
            raise KernelError(f"there is no kernel {name!r}")
        return self._kernels[name]

    def launch(self, launches: Sequence[Launch]) -> None:
        """Run these in order. Raises KernelError where an argument does not fit the kernel; then none runs."""
        key = tuple(launches)
        prepared = self._prepared.get(key)
        if prepared is None:
            for launch in key:
                self._check_launch(launch)
            if len(self._prepared) >= PREPARED_BATCHES:
                self._prepared.clear()
            prepared = self._prepared[key] = self._prepare(key)
        self._launch(prepared)

    # -- arrays of the user --------------------------------------------------------------------------------------
    @abstractmethod
    def adopt(self, obj: object, dtype: DTypeLike) -> Any | None:
        """A device array over memory of this device that a user gives (DLPack or __cuda_array_interface__), valid while
        `obj` lives; None when `obj` lies elsewhere. Raises NetworkError where it is not contiguous, of one dimension, of
        this dtype and on this device."""

    @abstractmethod
    def view(self, array: Any, at: int, count: int) -> Any:
        """array[at : at + count] for users: an object with `__dlpack__`, sharing the memory."""

    def close(self) -> None:
        """Give back every array and forget everything. The device can be used again."""
        self._prepared.clear()
        self._allocated = 0

    # -- what a device has to say --------------------------------------------------------------------------------
    @abstractmethod
    def _alloc(self, count: int, dtype: np.dtype[Any]) -> Any: ...

    @abstractmethod
    def _free(self, array: Any) -> None: ...

    @abstractmethod
    def _owns(self, array: Any) -> bool:
        """Whether this is a living array of this device."""

    @abstractmethod
    def _upload(self, array: Any, host: Host, at: int) -> None: ...

    @abstractmethod
    def _download(self, array: Any, host: Host, at: int) -> None: ...

    @abstractmethod
    def _copy(self, dst: Any, dst_at: int, src: Any, src_at: int, count: int) -> None: ...

    @abstractmethod
    def _prepare(self, launches: tuple[Launch, ...]) -> Any:
        """What `_launch` wants, worked out once; the launches were checked."""

    @abstractmethod
    def _launch(self, prepared: Any) -> None: ...

    # -- checks --------------------------------------------------------------------------------------------------
    def _no_memory(self, needed: int, free: int) -> DeviceMemoryError:
        way_out = "reserve less, make the network smaller, or use a larger device"
        return DeviceMemoryError(f"{self.description}: {needed:,} bytes needed, {free:,} free; {way_out}")

    def _own(self, array: Any) -> None:
        if not self._owns(array):
            raise KernelError(f"not an array of this device, or freed: {type(array).__name__}")

    def _check_span(self, array: Any, at: int, count: int) -> None:
        self._own(array)
        if at < 0 or count < 0 or at + count > array.size:
            raise KernelError(f"items {at} to {at + count} of an array of {array.size}")

    def _check_transfer(self, array: Any, host: Host, at: int) -> None:
        self._check_span(array, at, host.size)
        if host.dtype != array.dtype or not host.flags.c_contiguous:
            raise KernelError(f"transfer between {array.dtype} and host {host.dtype}, contiguous: {host.flags.c_contiguous}")

    def _check_launch(self, launch: Launch) -> None:
        kernel = self.kernel(launch.kernel)
        if len(launch.args) != len(kernel.arguments):
            raise KernelError(f"{kernel.name} takes {len(kernel.arguments)} arguments, not {len(launch.args)}")
        for i, (code, arg, size) in enumerate(zip(kernel.arguments, launch.args, self._value_bytes[kernel.name], strict=True)):
            fits = self._fits_pointer(code[1:], arg) if code.startswith("*") else _fits_value(code, size, arg)
            if not fits:
                got = f"{type(arg).__name__} of {getattr(arg, 'size', '?')} {getattr(arg, 'dtype', '')}".strip()
                raise KernelError(f"{kernel.name}, argument {i}: the kernel takes {code} ({size} bytes), not {got}")

    def _pointer(self, array: Any) -> Host:
        """An array's address, or null, as the value of a kernel's argument."""
        return np.array([0 if array is None else self.address(array)], np.uint64)

    def _fits_pointer(self, code: str, arg: Any) -> bool:
        """Null fits; so does any array of this device where the kernel takes bytes, and one of structs where it takes those."""
        return arg is None or (self._owns(arg) and (code == "u1" or arg.dtype.kind == "V" or arg.dtype.str[1:] == code))


def _fits_value(code: str, size: int, arg: Any) -> bool:
    """One item of this dtype; a struct has no code, its size must be what was compiled."""
    if not isinstance(arg, np.ndarray | np.generic) or arg.size != 1 or arg.nbytes != size:
        return False
    return arg.dtype.kind == "V" or (arg.dtype.isnative and arg.dtype.str[1:] == code)
