"""A signal in the middle of a burst or of many: the network goes on from the burst that the device has reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU
from gpu_npu.backends.devices.base import Device
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import Executor
from gpu_npu.connectome.generators import fixed_out_degree


class _Interrupted(Device):
    """KeyboardInterrupt comes when the device has done so many calls that launch or wait: `after`."""

    after: int | None = None

    def launch(self, launches: Any) -> None:
        super().launch(launches)
        self._count()

    def wait(self, mark: Any = None) -> None:
        super().wait(mark)
        self._count()

    def _count(self) -> None:
        if self.after is not None:
            self.after -= 1
            if self.after < 0:
                self.after = None
                raise KeyboardInterrupt


class InterruptedCpu(_Interrupted, CpuDevice):
    """What is launched has happened."""


class InterruptedEmulated(_Interrupted, EmulatedDevice):
    """What is launched happens when somebody waits for it."""


def one_burst(npu: NPU) -> None:
    npu.process_burst()


def many(npu: NPU) -> None:
    npu.run(40)


def watched(npu: NPU) -> None:
    npu.run(40, watch=lambda result: None)


DEVICES = {"cpu": lambda: InterruptedCpu(workers=1), "emulated": lambda: InterruptedEmulated(block=64)}


@pytest.mark.parametrize("call", [one_burst, many, watched])
@pytest.mark.parametrize("kind", DEVICES)
def test_a_signal_loses_no_burst(kind: str, call: Callable[[NPU], None]) -> None:
    network = fixed_out_degree(200, 9, seed=3, weight=(1, 60), psp=(1, 9), threshold=300.0)
    device, reached = DEVICES[kind](), set[int]()
    with (
        NPU.from_connectome(network, backend=lambda: Executor(device, ring=(9, 300))) as npu,
        NPU.from_connectome(network, backend="reference") as reference,
    ):
        for one in (npu, reference):
            one.set_power_neurons(np.arange(0, 200, 7))
            one.run(2)
        for after in range(1_000):
            for one in (npu, reference):
                one.inject(np.arange(after, 200, 5), 400.0)
            begun, device.after = npu.burst_count, after
            try:
                call(npu)
            except KeyboardInterrupt:
                reached.add(npu.burst_count - begun)
            else:
                break
            finally:
                device.after = None
            while reference.burst_count < npu.burst_count:
                reference.process_burst()
            for queue in ("fire_queue", "previous_fire_queue"):
                ours, theirs = (getattr(one, queue) for one in (npu, reference))
                np.testing.assert_array_equal(ours.neurons, theirs.neurons, err_msg=f"{queue} after {after} calls")
                np.testing.assert_array_equal(ours.potentials, theirs.potentials, err_msg=f"{queue} after {after} calls")
            for name in ("membrane_potential", "refractory_countdown"):
                np.testing.assert_array_equal(*(one.get_parameter(name) for one in (npu, reference)))
            for _ in range(2):
                np.testing.assert_array_equal(*(one.process_burst().fired_neurons for one in (npu, reference)))
        else:
            pytest.fail("it never ended")
    assert len(reached) > (0 if call is one_burst else 3)
