"""What a network needs on a device, before it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpu_npu.backends.layout import load_bytes
from gpu_npu.backends.select import open_backend
from gpu_npu.connectome import NEURON_FIELDS, Connectome, SynapseSource


@dataclass(frozen=True)
class MemoryPlan:
    """What `NPU.memory` will say once the network is loaded, and whether it fits; without what plasticity rules take
    (docs/plasticity.md), which is not counted.

    Attributes
    ----------
    backend, reason, description : the backend that would be taken, why, and what it runs on.
    pieces : bytes by piece, those of `NPU.memory`. Staging grows with what a burst injects, edits may let rows grow.
    loading : bytes that the load takes beside them, and gives back.
    free, total : bytes of the device.
    """

    backend: str
    reason: str
    description: str
    pieces: Mapping[str, int]
    loading: int
    free: int
    total: int

    @property
    def needed(self) -> int:
        """Bytes of all pieces."""
        return sum(self.pieces.values())

    @property
    def fits(self) -> bool:
        """Whether the network and its load fit what is free now."""
        return self.needed + self.loading <= self.free


def plan_memory(
    connectome: Connectome,
    *,
    synapses: SynapseSource | None = None,
    fire_ledger_window: int = 20,
    neuron_capacity: int | None = None,
    synapse_capacity: int | None = None,
    backend: str = "auto",
    device: int | None = None,
) -> MemoryPlan:
    """The memory that `NPU.from_connectome` with the same arguments would take, without what plasticity rules take
    (docs/plasticity.md), which is not counted. The backend is opened, nothing is loaded; every synapse is read once.

    BackendUnavailableError: an explicit choice that cannot run here. A device that is too small is no error.
    """
    neurons = connectome.neuron_capacity if neuron_capacity is None else neuron_capacity
    total = connectome.synapse_count + (0 if synapses is None else synapses.total)
    reserved = max(total, connectome.synapse_capacity) if synapse_capacity is None else synapse_capacity
    chooses = backend == "auto" and device is None  # by what fits; an explicit choice is taken whether it fits or not
    opened, reason = open_backend(
        backend,
        device,
        neuron_capacity=neurons if chooses else 0,
        synapse_capacity=reserved if chooses else 0,
        weight_dtype=connectome.weight_dtype,
        psp_dtype=connectome.psp_dtype,
        ledger_window=fire_ledger_window if chooses else 1,
    )
    name, description = opened.name, opened.description
    opened.close()
    if name == "reference":
        pieces, loading = _reference_bytes(connectome, neurons, reserved), 0
    else:
        pieces, loading = load_bytes(connectome, neurons, reserved, fire_ledger_window, synapses, owned=name == "cpu")
    return MemoryPlan(name, reason, description, pieces, loading, *_device_memory(name, device))


def _reference_bytes(connectome: Connectome, neurons: int, synapses: int) -> dict[str, int]:
    """The reference backend holds a Connectome of these capacities; queues and ledger hold what fired and no more."""
    fields = sum(np.dtype(field.dtype).itemsize * field.width for field in NEURON_FIELDS.values())
    one_synapse = sum(array.itemsize for array in connectome.synapses.arrays())
    return {"rows": synapses * one_synapse, "neurons": neurons * (fields + 2), "ledger": 0, "staging": 0, "queues": 0}


def _device_memory(backend: str, device: int | None) -> tuple[int, int]:
    if backend == "cuda":
        from gpu_npu.backends.devices.cuda import CudaDevice

        gpu = CudaDevice(device)
        try:
            return gpu.memory()
        finally:
            gpu.close()
    from gpu_npu.backends.devices.cpu import host_memory

    return host_memory()
