"""What is injected or forced in the next burst, until that burst takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32, sorted_union
from gpu_npu.backends.devices.base import Device, Launch
from gpu_npu.backends.executor.context import Context
from gpu_npu.backends.layout import STAGING_ITEMS
from gpu_npu.errors import NetworkError, NeuronIndexError


class _Buffer:
    """A device array that grows by doubling and keeps what it holds."""

    def __init__(self, device: Device, dtype: type[np.generic]) -> None:
        self._device, self._dtype = device, dtype
        self.array = device.alloc(STAGING_ITEMS, dtype)

    def reserve(self, count: int, used: int) -> Any:
        """The array, with room for `count` items; of the first `used`, those that were there are kept."""
        size = int(self.array.size)
        if count > size:
            larger = self._device.alloc(max(count, 2 * size), self._dtype)
            self._device.copy(larger, 0, self.array, 0, min(used, size))
            self._device.wait()
            self._device.free(self.array)
            self.array = larger
        return self.array


@dataclass
class _Segment:
    """Items `first` to `first + count - 1` of the buffers: from these parts on the host, or (None) on the device already."""

    first: int
    count: int
    parts: list[tuple[U32, F32]] | None


@dataclass
class _Reused:
    """A launch, and what it takes beside the State: buffers, and numbers of shape (1,)."""

    buffers: dict[str, Any]
    numbers: dict[str, NDArray[np.uint64]]
    launch: Launch


class Staging:
    """External potentials, as segments in the order staged, and forced neurons.

    Segments lie one after the other in one pair of device buffers: those that came from the host are uploaded when the
    burst takes them, those that came from the device were copied when they were staged.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._device = context, context.device
        device = context.device
        self._ids, self._potentials, self._forced = (_Buffer(device, dtype) for dtype in (np.uint32, np.float32, np.uint32))
        self._launches: dict[tuple[str, int], _Reused] = {}
        self.clear()

    def clear(self) -> None:
        """Nothing is staged."""
        self._used = 0
        self._segments: list[_Segment] = []
        self._to_force: list[U32] = []

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return int(self._ids.array.nbytes + self._potentials.array.nbytes + self._forced.array.nbytes)

    def inject(self, neurons: U32, potentials: F32) -> None:
        """Stage from the host."""
        if not len(neurons):
            return
        if not self._segments or self._segments[-1].parts is None:  # what came before lies on the device already
            self._segments.append(_Segment(self._used, 0, []))
        segment = self._segments[-1]
        assert segment.parts is not None
        segment.parts.append((neurons.copy(), potentials.copy()))
        segment.count += len(neurons)
        self._used += len(neurons)

    def inject_device(self, neurons: object, potentials: object, capacity: int) -> None:
        """Stage from arrays on the device: ids ascending, all in range, potentials finite; else nothing is staged."""
        ids, values = self._device.adopt(neurons, np.uint32), self._device.adopt(potentials, np.float32)
        if ids is None or values is None:
            raise NetworkError(f"these arrays are not on the device ({self._device.description})", python="inject() takes host arrays")
        count = int(ids.size)
        if int(values.size) != count:
            raise NetworkError(f"{count} neurons but {values.size} potentials")
        if not count:
            return
        first = self._used
        self._ids.reserve(first + count, first)
        self._potentials.reserve(first + count, first)
        self._device.copy(self._ids.array, first, ids, 0, count)
        self._device.copy(self._potentials.array, first, values, 0, count)
        with self._device.scratch() as scratch:
            wrong = scratch.uploaded(np.full(1, 2**64 - 1, np.uint64))
            buffers = {"ids": self._ids.array, "potentials": self._potentials.array}
            self._context.launch("check_injection", **buffers, first=first, n=count, wrong=wrong)
            code = int(self._device.fetched(wrong, 1)[0])
        if code != 2**64 - 1:
            raise self._refusal(code >> 2, code & 3, first, capacity)
        self._segments.append(_Segment(first, count, None))
        self._used += count

    def _refusal(self, position: int, reason: int, first: int, capacity: int) -> Exception:
        if reason == 2:
            return NetworkError(f"potential {position} of the device array is not finite")
        ids: U32 = np.empty(1, np.uint32)
        self._device.download(self._ids.array, ids, first + position)
        self._device.wait()
        if reason == 0:
            return NeuronIndexError.outside(f"neurons[{position}]", int(ids[0]), capacity)
        return NetworkError(f"neuron {position} of the device array: {ids[0]} is below the one before; ids on the device must ascend")

    def force(self, neurons: U32) -> None:
        """Stage neurons to be forced."""
        if len(neurons):
            self._to_force.append(neurons.copy())

    def staged(self) -> tuple[tuple[U32, F32], U32]:
        """(ids and potentials in the order staged; ids to force, ascending, each once)."""
        ids: list[U32] = [np.zeros(0, np.uint32)]
        potentials: list[F32] = [np.zeros(0, np.float32)]
        for segment in self._segments:
            at, parts = (segment.count, segment.first), segment.parts
            if parts is None:
                parts = [(self._device.fetched(self._ids.array, *at), self._device.fetched(self._potentials.array, *at))]
            ids += [part[0] for part in parts]
            potentials += [part[1] for part in parts]
        return (np.concatenate(ids), np.concatenate(potentials)), sorted_union(ids[0], *self._to_force)

    def launches(self) -> list[Launch]:
        """What injects all that is staged. `clear()` follows when they were launched."""
        if not self._segments and not self._to_force:
            return []
        buffers = {"ids": self._ids.reserve(self._used, self._used), "potentials": self._potentials.reserve(self._used, self._used)}
        launches = []
        for index, segment in enumerate(self._segments):
            if segment.parts is not None:
                self._upload(segment.first, segment.parts)
            launches.append(self._reused("inject", index, buffers, first=segment.first, n=segment.count))
        if self._to_force:
            forced = sorted_union(*self._to_force)
            buffer = self._forced.reserve(len(forced), 0)
            self._device.upload(buffer, forced)
            launches.append(self._reused("force", 0, {"ids": buffer}, n=len(forced)))
        return launches

    def _reused(self, kernel: str, index: int, buffers: dict[str, Any], **numbers: int) -> Launch:
        """The launch of this kernel and index with other numbers in it: a device knows it, and launches it at little cost."""
        known = self._launches.get((kernel, index))
        if known is None or any(known.buffers[name] is not buffer for name, buffer in buffers.items()):
            cells: dict[str, Any] = {name: np.zeros(1, np.uint64) for name in numbers}
            known = self._launches[kernel, index] = _Reused(buffers, cells, self._context.prepared(kernel, **buffers, **cells))
        for name, number in numbers.items():
            known.numbers[name][0] = number
        return known.launch

    def _upload(self, first: int, parts: list[tuple[U32, F32]]) -> None:
        """A segment by ascending id; equal ids stay in the order staged, for that is the order in which they add."""
        ids, potentials = (np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*parts, strict=True))
        if len(ids) > 1 and not bool((ids[1:] >= ids[:-1]).all()):
            order = np.argsort(ids, kind="stable")
            ids, potentials = ids[order], potentials[order]
        self._device.upload(self._ids.array, ids, first)
        self._device.upload(self._potentials.array, potentials, first)
