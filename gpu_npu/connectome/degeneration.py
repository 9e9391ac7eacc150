"""Areas whose psps fall as their neurons fire (docs/feagi.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gpu_npu.arrays import F32, U32, Counts
from gpu_npu.checks import settle
from gpu_npu.errors import NetworkError

from .fields import CountType
from .settings import Area
from .synapses import SynapseBatch


def check_degeneration(area: Area, psp_dtype: CountType) -> None:
    """NetworkError where psps of this dtype cannot fall by fractions."""
    if area.degeneration and psp_dtype is not np.float32:
        raise NetworkError(
            f"degeneration: {area.degeneration:g} in a network whose psps are {np.dtype(psp_dtype)}",
            python='a network made with psp_dtype="float32" has psps that can fall',
        )


def falls(fired: U32, neuron_areas: U32, areas: Mapping[int, Area]) -> F32:
    """For every id, by how much the psps of its synapses fall where `fired` have fired."""
    step = np.zeros(len(neuron_areas), np.float32)
    for area, flags in areas.items():
        if flags.degeneration:
            step[fired[neuron_areas[fired] == area]] = flags.degeneration
    return step


def fallen(psp: Counts, step: F32) -> F32:
    """psp = max(0, fl32(psp - step))."""
    return settle(np.maximum(psp - step, np.float32(0)))


def fallen_batch(batch: SynapseBatch, step: F32) -> SynapseBatch:
    """The same of a batch; `step` has a value for every id."""
    return replace(batch, psp=fallen(batch.psp, step[batch.source]))
