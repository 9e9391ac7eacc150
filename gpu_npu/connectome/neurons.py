"""Neurons as structure of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32, Flags, Indices
from gpu_npu.errors import CapacityError
from gpu_npu.objects import described

from .fields import NEURON_FIELDS

_SEED_NAMES = {field.seed_name: field.name for field in NEURON_FIELDS.values()}


class NeuronArray:
    """One array of shape (capacity,), or (capacity, 3) for coordinates, for each field; the neuron's id is the index.

    Ids are reserved (below `capacity`), then created once, then perhaps deleted; `created` stays True for deleted ones.
    The names of the first API (thresholds, leak_rates, cortical_areas, ...) read the same arrays.
    """

    __slots__ = (*NEURON_FIELDS, "capacity", "created", "first_free", "valid")

    capacity: int
    valid: NDArray[np.bool_]
    created: NDArray[np.bool_]
    membrane_potential: NDArray[np.float32]
    threshold: NDArray[np.float32]
    threshold_limit: NDArray[np.float32]
    leak_coefficient: NDArray[np.float32]
    refractory_period: NDArray[np.uint16]
    refractory_countdown: NDArray[np.uint16]
    excitability: NDArray[np.float32]
    consecutive_fire_limit: NDArray[np.uint16]
    consecutive_fire_count: NDArray[np.uint16]
    snooze_period: NDArray[np.uint16]
    mp_charge_accumulation: NDArray[np.bool_]
    cortical_area: NDArray[np.uint32]
    coordinates: NDArray[np.uint32]

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.first_free = 0
        """No id below this one is free."""
        try:
            self.valid = np.zeros(capacity, np.bool_)
            self.created = np.zeros(capacity, np.bool_)
            for name, field in NEURON_FIELDS.items():
                shape = capacity if field.width == 1 else (capacity, field.width)
                setattr(self, name, np.full(shape, field.default, field.dtype))
        except MemoryError as error:
            raise CapacityError(f"room for {capacity:,} neurons is more than the memory of this machine") from error

    def __repr__(self) -> str:
        return described(self, f"{np.count_nonzero(self.valid):,} neurons (capacity {self.capacity:,})")

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name in _SEED_NAMES:
            return self[_SEED_NAMES[name]]
        raise AttributeError(f"NeuronArray has no field {name!r}")

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array of a field, "valid" or "created"."""
        array: NDArray[Any] = getattr(self, name)
        return array

    @property
    def count(self) -> int:
        """Ids created so far, deleted ones included."""
        return int(np.count_nonzero(self.created))

    def free(self, count: int) -> U32:
        """The next `count` ids that were never created, ascending. CapacityError where there are fewer."""
        found = lowest_free(self.created, self.first_free, count)
        if len(found) < count:
            raise self._too_few(count, len(found))
        return found.astype(np.uint32)

    def free_one(self) -> int:
        """The next id that was never created. CapacityError where there is none."""
        created = self.created
        if self.first_free < len(created) and created[self.first_free]:
            self.first_free += int(np.argmin(created[self.first_free :]))  # the next gap, if there is one
        if self.first_free == len(created) or created[self.first_free]:
            raise self._too_few(1, 0)
        return self.first_free

    def _too_few(self, wanted: int, free: int) -> CapacityError:
        return CapacityError(
            f"{wanted:,} neurons do not fit: {free:,} of {self.capacity:,} reserved ids are free",
            python=f"reserve(neurons={self.capacity + wanted - free}) makes room",
        )

    def create(self, ids: U32 | int, columns: Mapping[str, Any]) -> None:
        """Create these ids with values that were checked; fields that are not given get their defaults."""
        for name, field in NEURON_FIELDS.items():
            self[name][ids] = columns.get(name, field.default)
        self.valid[ids] = True
        self.created[ids] = True

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """valid, created and every field in the order of NEURON_FIELDS."""
        return (self.valid, self.created, *(self[name] for name in NEURON_FIELDS))

    def with_capacity(self, capacity: int) -> NeuronArray:
        """A copy with another capacity, at least as large."""
        new = NeuronArray(capacity)
        new.first_free = self.first_free
        for ours, theirs in zip(self.arrays(), new.arrays(), strict=True):
            theirs[: self.capacity] = ours
        return new


def lowest_free(created: Flags, begin: int, count: int) -> Indices:
    """The lowest `count` ids, from `begin` on, that were never created, or all where there are fewer."""
    reach = max(count, 64)
    while True:
        free = np.flatnonzero(~created[begin : begin + reach]) + begin
        if len(free) >= count or begin + reach >= len(created):
            return free[:count]
        reach *= 2
