"""The host as a place where networks run without a kernel."""

from __future__ import annotations

import numpy as np

from gpu_npu.backends.base import Platform
from gpu_npu.backends.reference.reference import DESCRIPTION, Reference
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import NEURON_FIELDS, Connectome, SynapseSource
from gpu_npu.connectome.fields import synapse_dtypes


class ReferencePlatform(Platform):
    """The host, without a kernel."""

    name = "reference"

    @property
    def description(self) -> str:
        return DESCRIPTION

    def free_and_total(self) -> tuple[int, int]:
        from gpu_npu.limits import host_memory

        return host_memory()

    def plan(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> tuple[dict[str, int], int]:
        """A connectome of these capacities is held; queues and ledger hold what fired and no more."""
        fields = sum(np.dtype(field.dtype).itemsize * field.width for field in NEURON_FIELDS.values())
        dtypes = synapse_dtypes(shape.weight_dtype, shape.psp_dtype, shape.delay_dtype)
        if shape.shortest_delay == shape.longest_delay:
            del dtypes["delay"]
        one_synapse = sum(np.dtype(dtype).itemsize for dtype in (*dtypes.values(), np.bool_))
        neurons = shape.neuron_capacity * (fields + 2)
        return {"rows": shape.synapse_capacity * one_synapse, "neurons": neurons, "ledger": 0, "staging": 0, "queues": 0}, 0

    def load(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> Reference:
        network, synapse_capacity = connectome.copy(), shape.synapse_capacity
        if synapses is not None:  # slots of removed synapses are not free
            synapse_capacity = max(synapse_capacity, network.synapses.count + synapses.total)
        network.reserve(neurons=shape.neuron_capacity, synapses=synapse_capacity)
        for batch in synapses or ():
            network.synapses.append(batch)
        return Reference(network, shape.ledger_window, shape.longest_delay)

    def close(self) -> None:
        return
