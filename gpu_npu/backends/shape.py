"""How large a network may become, and of what its synapses are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_npu.connectome import Connectome, SynapseBatch, SynapseChain, SynapseSource
from gpu_npu.connectome.fields import CountType, DelayType


@dataclass(frozen=True)
class NetworkShape:
    """What the memory of a network follows from before it is loaded.

    neuron_capacity, synapse_capacity : ids and synapses to reserve.
    ledger_window : bursts of history that are kept.
    weight_dtype, psp_dtype : np.uint8, np.uint16 or np.float32.
    delay_dtype : np.uint8 or np.uint16.
    shortest_delay : bursts; no synapse has a shorter delay when it is loaded.
    longest_delay : none has a longer one; spikes of so many last bursts are kept, as they are under way.
    """

    neuron_capacity: int
    synapse_capacity: int
    ledger_window: int = 20
    weight_dtype: CountType = np.uint8
    psp_dtype: CountType = np.uint8
    delay_dtype: DelayType = np.uint8
    shortest_delay: int = 1
    longest_delay: int = 1

    @staticmethod
    def of(
        connectome: Connectome,
        more: SynapseSource | None = None,
        *,
        neuron_capacity: int | None = None,
        synapse_capacity: int | None = None,
        ledger_window: int = 20,
        longest_delay: int = 1,
    ) -> NetworkShape:
        """That of a connectome and more synapses, with other capacities and a longer delay where they are given."""
        neurons = connectome.neuron_capacity if neuron_capacity is None else neuron_capacity
        synapses = connectome.synapse_capacity if synapse_capacity is None else synapse_capacity
        shortest, longest = SynapseChain(connectome.synapses, *([] if more is None else [more])).delay_range
        longest = max(longest, longest_delay)
        dtypes = connectome.weight_dtype, connectome.psp_dtype, connectome.delay_dtype
        return NetworkShape(neurons, synapses, ledger_window, *dtypes, min(shortest, longest), longest)

    def no_synapse(self) -> SynapseBatch:
        """An empty batch of these dtypes."""
        return SynapseBatch.empty(self.weight_dtype, self.psp_dtype, self.delay_dtype)

    @property
    def term_bytes(self) -> int:
        """Bytes of a weight and a psp, which are those of their product too."""
        return np.dtype(self.weight_dtype).itemsize + np.dtype(self.psp_dtype).itemsize

    @property
    def synapse_bytes(self) -> int:
        """Bytes of a synapse in a row whose synapses have a psp each, and a delay each if they can differ: target, weight, psp, delay."""
        return 4 + self.term_bytes + (np.dtype(self.delay_dtype).itemsize if self.shortest_delay != self.longest_delay else 0)
