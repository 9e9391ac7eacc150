"""Stimulus of bursts to come: all of it on the host, what comes next on the device too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32
from gpu_npu.backends.executor.context import Context
from gpu_npu.backends.flight import Scheduled
from gpu_npu.backends.scheduled import ScheduleStore

WINDOW_ITEMS, WINDOW_BURSTS = 2**20, 2**16
"""How much of the schedule lies on the device at most: so many items, unless one burst has more, of at most so many bursts."""
SHORTEST_WINDOW = 2**8
"""Items and bursts of the first window. Each one that is used up makes the next twice as long; an addition to it makes it short
again, so that whoever adds something before each burst pays for a short one."""
FAR = 2**62
"""Later than any burst."""


class ScheduleWindow:
    """The schedule of one network, of which a window of bursts lies on the device."""

    def __init__(self, context: Context) -> None:
        self._device, self._state = context.device, context.state
        self._arrays: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Nothing is scheduled."""
        self._items = ScheduleStore()
        self._reach = SHORTEST_WINDOW
        self._close()

    def _close(self) -> None:
        """Nothing of it is on the device."""
        self._window = range(0)
        """Bursts of which all is there."""
        self._state["schedule_bursts"] = 0

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(int(array.nbytes) for array in self._arrays.values())

    def add(self, bursts: NDArray[np.uint64], neurons: U32, potentials: F32 | None) -> None:
        """More items; None: to be forced."""
        if not len(bursts):
            return
        self._items.add(bursts, neurons, potentials)
        first_new = int(bursts.min())
        if first_new <= self._window.stop - 1:  # up to there the window holds; it will not be worth a long one soon
            self._window = range(self._window.start, max(first_new, self._window.start))
            self._state["schedule_bursts"] = min(int(self._state["schedule_bursts"][0]), len(self._window))
            self._reach = SHORTEST_WINDOW

    def items(self, after: int) -> Scheduled:
        """What is scheduled for bursts later than this one."""
        return self._items.after(after)

    def open(self, first: int) -> int:
        """Have what is scheduled for burst `first` on the device. Returns a burst up to which the same is true."""
        if first in self._window:
            return self._window[-1]
        self._items.forget(first - 1)
        self._close()
        following = self._items.next_burst()
        if following != first:
            self._window = range(first, FAR + 1 if following is None else following)
            return self._window[-1]
        last = first + min(self._reach, WINDOW_BURSTS) - 1
        while last > first and self._items.count(last) > min(self._reach, WINDOW_ITEMS):
            last = (first + last) // 2
        self._reach = min(2 * self._reach, max(WINDOW_ITEMS, WINDOW_BURSTS))
        items = self._items.upto(last)
        self._fill("schedule_begin", np.searchsorted(items.burst, np.arange(first, last + 2, dtype=np.uint64)).astype(np.uint32))
        self._fill("schedule_neuron", items.neuron)
        self._fill("schedule_potential", items.potential)
        self._window = range(first, last + 1)
        self._state["schedule_first"], self._state["schedule_bursts"] = first, len(self._window)
        return last

    def _fill(self, name: str, values: NDArray[Any]) -> None:
        """A device array that begins with these values; it grows when it must."""
        array = self._arrays.get(name)
        if array is None or array.size < values.size:
            larger = self._device.alloc(max(values.size, 0 if array is None else 2 * array.size), values.dtype)
            self._device.release(array)
            array = self._arrays[name] = larger
            self._state[name] = self._device.address(array)
        self._device.upload(array, values)
        self._device.wait()  # the host array is a temporary one
