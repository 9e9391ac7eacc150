"""Devices that run out of memory, or on which signals come, where a test says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_npu.backends.devices.base import Device
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.devices.emulated import EmulatedDevice


class _Faulty(Device):
    """Gives `left` arrays more, then none, or, `once`, all but one; None: as many as are asked for. KeyboardInterrupt comes in
    one of the calls that launch or wait: `after` so many of them; None: it does not come."""

    left: int | None = None
    once = False
    after: int | None = None
    launched = True
    """Whether what that call launches has gone out: all of it or nothing, as no Python runs in between."""

    def alloc(self, count: int, dtype: Any) -> Any:
        if self.left is not None:
            if not self.left:
                if self.once:
                    self.left = None
                raise self._no_memory(count * np.dtype(dtype).itemsize, 0)
            self.left -= 1
        return super().alloc(count, dtype)

    def launch(self, launches: Any) -> None:
        comes = self._comes()
        if not comes or self.launched:
            super().launch(launches)
        if comes:
            raise KeyboardInterrupt

    def wait(self, mark: Any = None) -> None:
        comes = self._comes()
        super().wait(mark)
        if comes:
            raise KeyboardInterrupt

    def _comes(self) -> bool:
        if self.after is None:
            return False
        self.after -= 1
        if self.after >= 0:
            return False
        self.after = None
        return True


class FaultyCpu(_Faulty, CpuDevice):
    """What is launched has happened."""


class FaultyEmulated(_Faulty, EmulatedDevice):
    """What is launched happens when somebody waits for it."""
