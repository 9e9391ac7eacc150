"""How large a network may become, and of what its synapses are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_npu.connectome import Connectome
from gpu_npu.connectome.fields import CountType


@dataclass(frozen=True)
class NetworkShape:
    """What the memory of a network follows from before it is loaded.

    neuron_capacity, synapse_capacity : ids and synapses to reserve.
    ledger_window : bursts of history that are kept.
    weight_dtype, psp_dtype : np.uint8 or np.uint16.
    """

    neuron_capacity: int
    synapse_capacity: int
    ledger_window: int = 20
    weight_dtype: CountType = np.uint8
    psp_dtype: CountType = np.uint8

    @staticmethod
    def of(
        connectome: Connectome, *, neuron_capacity: int | None = None, synapse_capacity: int | None = None, ledger_window: int = 20
    ) -> NetworkShape:
        """That of a connectome, with other capacities where they are given."""
        neurons = connectome.neuron_capacity if neuron_capacity is None else neuron_capacity
        synapses = connectome.synapse_capacity if synapse_capacity is None else synapse_capacity
        return NetworkShape(neurons, synapses, ledger_window, connectome.weight_dtype, connectome.psp_dtype)

    @property
    def term_bytes(self) -> int:
        """Bytes of a weight and a psp, which are those of their product too."""
        return np.dtype(self.weight_dtype).itemsize + np.dtype(self.psp_dtype).itemsize

    @property
    def synapse_bytes(self) -> int:
        """Bytes of a synapse in a row whose synapses have a psp each: target, weight, psp."""
        return 4 + self.term_bytes
