"""What a network needs on a device, before it is there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from gpu_npu.backends.select import BackendChoice, open_platform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Connectome, SynapseSource
from gpu_npu.objects import OneLine


@dataclass(frozen=True, repr=False)
class MemoryPlan(OneLine):
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
    backend: BackendChoice = "auto",
    device: int | None = None,
) -> MemoryPlan:
    """The memory that `NPU.from_connectome` with the same arguments would take, without what plasticity rules take
    (docs/plasticity.md), which is not counted. The platform is opened, nothing is loaded; every synapse is read once.

    BackendUnavailableError: an explicit choice that cannot run here. A device that is too small is no error.
    """
    total = connectome.synapse_count + (0 if synapses is None else synapses.total)
    reserved = max(total, connectome.synapse_capacity) if synapse_capacity is None else synapse_capacity
    shape = NetworkShape.of(
        connectome, synapses, neuron_capacity=neuron_capacity, synapse_capacity=reserved, ledger_window=fire_ledger_window
    )
    chooses = backend == "auto" and device is None  # by what fits; an explicit choice is taken whether it fits or not
    platform, reason = open_platform(backend, device, shape if chooses else None, connectome.plasticity)
    with closing(platform):
        pieces, loading = platform.plan(connectome, shape, synapses)
        return MemoryPlan(platform.name, reason, platform.description, pieces, loading, *platform.free_and_total())
