"""Neurons and synapses as FEAGI grows them, in float32, before they are packed into a connectome's integer types."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U8, U16, U32
from gpu_npu.objects import OneLine

NO_LIMIT = np.finfo(np.float32).max
"""threshold_limit of a neuron that has none."""
UNLIMITED_FIRES = 65535
"""consecutive_fire_limit of a neuron that has none."""


@dataclass(frozen=True, eq=False, repr=False)
class NeuronTable(OneLine):
    """n neurons sorted by (area, x, y, z, k), the id of a neuron being its row: arrays of shape (n,)."""

    area: U32
    """Row of the area."""
    x: U32
    y: U32
    z: U32
    k: U16
    """Index among the neurons of the voxel."""
    threshold: F32
    threshold_limit: F32
    leak_coefficient: F32
    """As the genome says it: 10 is 10, not a percentage."""
    refractory_period: U16
    excitability: F32
    consecutive_fire_limit: U16
    snooze_period: U16
    mp_charge_accumulation: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.area)


@dataclass(frozen=True, eq=False, repr=False)
class SynapseTable(OneLine):
    """n synapses sorted by (source, target, inhibitory, psp, weight): arrays of shape (n,)."""

    source: U32
    target: U32
    weight: F32
    psp: F32
    inhibitory: NDArray[np.bool_]
    delay: U8
    """Bursts from firing to arrival."""

    def __len__(self) -> int:
        return len(self.source)

    def sorted(self) -> SynapseTable:
        """In the canonical order; what is equal in all of it keeps its order."""
        order = np.lexsort((self.weight, self.psp, self.inhibitory, self.target, self.source))
        return SynapseTable(*(getattr(self, field.name)[order] for field in fields(self)))
