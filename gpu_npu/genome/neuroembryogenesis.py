"""From areas to neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.errors import NetworkError

from .areas import CorticalArea
from .tables import NO_LIMIT, UNLIMITED_FIRES, NeuronTable


def first_neurons(areas: Sequence[CorticalArea]) -> list[int]:
    """Id of the first neuron of each area, and after the last one the number of all."""
    first = [0]
    for area in areas:
        first.append(first[-1] + area.neuron_count)
    return first


def grow_neurons(areas: Sequence[CorticalArea]) -> NeuronTable:
    """Every area filled voxel by voxel, x outermost, then y, z and the neurons of the voxel."""
    counts = [area.neuron_count for area in areas]
    n = sum(counts)
    coordinates = np.empty((3, n), np.uint32)
    k, threshold = np.empty(n, np.uint16), np.empty(n, np.float32)
    first = 0
    for area, count in zip(areas, counts, strict=True):
        mine = slice(first, first + count)
        shape = (*area.dimensions, area.neurons_per_voxel)
        for axis in range(3):
            coordinates[axis, mine].reshape(shape)[...] = _along(axis, shape)
        k[mine].reshape(shape)[...] = _along(3, shape)
        threshold[mine].reshape(shape)[...] = _thresholds(area)
        first += count

    def each(values: Sequence[object], dtype: type[np.generic]) -> NDArray[Any]:
        return np.repeat(np.array(values, dtype), counts)

    return NeuronTable(
        area=np.repeat(np.arange(len(areas), dtype=np.uint32), counts),
        x=coordinates[0],
        y=coordinates[1],
        z=coordinates[2],
        k=k,
        threshold=threshold,
        threshold_limit=each([area.threshold_limit or NO_LIMIT for area in areas], np.float32),
        leak_coefficient=each([area.leak_coefficient for area in areas], np.float32),
        refractory_period=each([area.refractory_period for area in areas], np.uint16),
        excitability=each([excitability(area) for area in areas], np.float32),
        consecutive_fire_limit=each([area.consecutive_fire_limit or UNLIMITED_FIRES for area in areas], np.uint16),
        snooze_period=each([area.snooze_period for area in areas], np.uint16),
        mp_charge_accumulation=each([area.mp_charge_accumulation for area in areas], np.bool_),
    )


def excitability(area: CorticalArea) -> float:
    """FEAGI keeps that of core areas in 0..1."""
    return min(max(area.excitability, 0.0), 1.0) if area.id[:1] == b"_" else area.excitability


def _along(axis: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])


def _thresholds(area: CorticalArea) -> NDArray[np.float32]:
    """threshold + x * ix + y * iy + z * iz in float32, added in that order, for all voxels; shape (X, Y, Z, 1)."""
    threshold = np.full((1, 1, 1, 1), area.threshold, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, step in enumerate(area.threshold_increment):
            at = np.arange(area.dimensions[axis], dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
            threshold = threshold + at * np.float32(step)
    if not np.isfinite(threshold).all():
        raise NetworkError(
            f"area {area.title}: firing_threshold {area.threshold:g} with increments {area.threshold_increment} is more than float32 holds"
        )
    return threshold
