"""A device as a place where networks run."""

from __future__ import annotations

from gpu_npu.backends.base import Platform
from gpu_npu.backends.devices.base import Device
from gpu_npu.backends.executor.executor import Executor
from gpu_npu.backends.executor.tuning import Tuning
from gpu_npu.backends.kernel_limits import check_kernels
from gpu_npu.backends.memory import estimate_bytes, load_bytes
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Connectome, SynapseSource
from gpu_npu.errors import DeviceMemoryError, NetworkError


class DevicePlatform(Platform):
    """A device that runs kernels. It holds one network at a time."""

    def __init__(self, device: Device, tuning: Tuning | None = None) -> None:
        self.name = device.name
        self._device, self._tuning = device, tuning or Tuning()

    @property
    def description(self) -> str:
        return self._device.description

    def free_and_total(self) -> tuple[int, int]:
        return self._device.free_and_total()

    def plan(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> tuple[dict[str, int], int]:
        check_kernels(shape, (), self.name)
        return load_bytes(connectome, shape, synapses, owned=(self._tuning.propagation or self._device.propagation) == "owned")

    def load(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> Executor:
        if self._device.allocated:
            raise NetworkError(f"{self.description}: a network is loaded there already; close it, or take another Platform")
        check_kernels(shape, (), self.name)
        free, _ = self.free_and_total()
        try:
            return Executor(self._device, self._tuning, connectome, shape, synapses)
        except DeviceMemoryError as problem:
            self._device.close()
            raise DeviceMemoryError(
                f"{self.description}: the network needs about {estimate_bytes(shape):,} bytes and {free:,} are free: "
                f"reserve fewer neurons ({shape.neuron_capacity:,}) or synapses ({shape.synapse_capacity:,}), or take a larger device"
            ) from problem
        except BaseException:
            self._device.close()
            raise

    def close(self) -> None:
        self._device.close()
