"""Stimulus of bursts to come: all of it on the host, what comes next on the device too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32
from gpu_npu.backends.base import Scheduled
from gpu_npu.backends.devices.base import Device

WINDOW_ITEMS, WINDOW_BURSTS = 2**20, 2**16
"""How much of the schedule lies on the device: so many items, unless one burst has more, of at most so many bursts."""
FAR = 2**62
"""Later than any burst."""


class Schedule:
    """The schedule of one network."""

    def __init__(self, device: Device, state: NDArray[np.void]) -> None:
        self._device, self._state = device, state
        self._arrays: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Nothing is scheduled."""
        self._items = Scheduled.none()
        self._close()

    def _close(self) -> None:
        """Nothing of it is on the device."""
        self._window = range(0)
        self._state["schedule_bursts"] = 0

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(int(array.nbytes) for array in self._arrays.values())

    def add(self, bursts: NDArray[np.uint64], neurons: U32, potentials: F32 | None) -> None:
        """More items; None: to be forced."""
        if len(bursts):
            self._items = self._items.plus(bursts, neurons, potentials)
            self._close()

    def items(self, after: int) -> Scheduled:
        """What is scheduled for bursts later than this one."""
        return self._items.after(after)

    def open(self, first: int) -> int:
        """Have what is scheduled for burst `first` on the device. Returns a burst up to which the same is true."""
        if first in self._window:
            return self._window[-1]
        self._items = items = self._items.after(first - 1)
        self._close()
        if not len(items.burst):
            return FAR
        if int(items.burst[0]) > first:
            return int(items.burst[0]) - 1
        last = min(int(items.burst[min(WINDOW_ITEMS, len(items.burst)) - 1]), first + WINDOW_BURSTS - 1)
        begin = np.searchsorted(items.burst, np.arange(first, last + 2, dtype=np.uint64)).astype(np.uint32)
        count = int(begin[-1])
        self._fill("schedule_begin", begin)
        self._fill("schedule_neuron", items.neuron[:count])
        self._fill("schedule_potential", items.potential[:count])
        self._window = range(first, last + 1)
        self._state["schedule_first"], self._state["schedule_bursts"] = first, len(self._window)
        return last

    def _fill(self, name: str, values: NDArray[Any]) -> None:
        """A device array that begins with these values; it grows when it must."""
        array = self._arrays.get(name)
        if array is None or array.size < values.size:
            larger = self._device.alloc(values.size, values.dtype)
            self._device.release(array)
            array = self._arrays[name] = larger
            self._state[name] = self._device.address(array)
        self._device.upload(array, values)
        self._device.wait()  # the host array is a temporary one
